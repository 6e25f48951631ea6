"""The one-step generator: a diffusion transformer with register tokens, style tokens and a guidance-scale input.

Source: "Generative Modeling via Drifting" (Deng et al.), App. A, and its released recipe; DiT (Peebles & Xie 2023) with
the LightningDiT options (SwiGLU, RMSNorm, rotary positions, query-key norm).
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from drifting.errors import require_argument
from drifting.networks.flash import flash_attend
from drifting.networks.kept import keep, kept_by_name
from drifting.networks.layers import (
    LayerNorm,
    Linear,
    RMSNorm,
    attend,
    embed,
    fourier_features,
    height_and_width,
    patchify,
    require_dtype,
    require_setting,
    rotary_angles,
    rotate,
    sincos_table,
    unpatchify,
)

Noise = dict[str, jax.Array]
"""Input of a generator: `image` float32 and, with style tokens, `style` int32."""

PRESETS: dict[str, dict[str, int]] = {
    "S": dict(hidden_size=384, depth=12, num_heads=6),
    "B": dict(hidden_size=768, depth=12, num_heads=12),
    "L": dict(hidden_size=1024, depth=24, num_heads=16),
    "XL": dict(hidden_size=1152, depth=28, num_heads=16),
}
"""Widths and depths of the DiT family."""

ALPHA_FEATURES = 256
"""Fourier features of the guidance scale (released recipe)."""

ALPHA_WEIGHT = 0.02
"""Weight of the guidance scale in the condition (released recipe): the size of the class and style embeddings."""

DIT_SETTINGS = (
    "patch_size",
    "mlp_ratio",
    "register_tokens",
    "style_tokens",
    "style_codebook",
    "qk_norm",
    "swiglu",
    "rope",
    "rms_norm",
    "dtype",
    "attention_dtype",
    "remat",
    "remat_mlp",
)
"""Settings that are constructor arguments of the same name."""

_normal = nnx.initializers.normal(0.02)

_xavier = nnx.initializers.xavier_uniform()

_zeros = nnx.initializers.zeros_init()


def swiglu_width(hidden_size: int, mlp_ratio: float) -> int:
    """Hidden width of the SwiGLU MLP: 2/3 of the plain one's, rounded up to a multiple of 32 (released recipe)."""
    return -(-int(2 / 3 * mlp_ratio * hidden_size) // 32) * 32


class DiTBlock(nnx.Module):
    """One transformer block; its adaLN modulation is computed outside, for all blocks at once."""

    def __init__(
        self,
        *,
        hidden_size: int,
        num_heads: int,
        mlp_ratio: float,
        qk_norm: bool,
        swiglu: bool,
        rope: bool,
        rms_norm: bool,
        dtype: DTypeLike,
        attention_dtype: DTypeLike | None,
        flash: str | None,
        remat_mlp: bool,
        rngs: nnx.Rngs,
    ) -> None:
        def linear(inputs: int, outputs: int) -> Linear:
            return Linear(inputs, outputs, dtype=dtype, init=_xavier, rngs=rngs)

        self.num_heads, self.rope, self.flash, self.remat_mlp = num_heads, rope, flash, remat_mlp
        self.attention_dtype = jnp.dtype(dtype if attention_dtype is None else attention_dtype)
        head = hidden_size // num_heads
        self.norm1, self.norm2 = make_norm(hidden_size, rms_norm), make_norm(hidden_size, rms_norm)
        self.qkv = linear(hidden_size, 3 * hidden_size)
        self.q_norm = make_norm(head, rms_norm, affine=True) if qk_norm else None
        self.k_norm = make_norm(head, rms_norm, affine=True) if qk_norm else None
        self.attention_out = linear(hidden_size, hidden_size)
        width = swiglu_width(hidden_size, mlp_ratio) if swiglu else int(mlp_ratio * hidden_size)
        self.mlp_in = linear(hidden_size, width)
        self.mlp_gate = linear(hidden_size, width) if swiglu else None
        self.mlp_out = linear(width, hidden_size)

    def __call__(self, x: jax.Array, modulation: jax.Array) -> jax.Array:
        """`x [B, N, hidden]`, `modulation [B, 6, hidden]`: shift, scale, gate of the attention, then of the MLP."""
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(modulation, 6, axis=1)
        x = x + gate1 * self.attention(self.norm1(x, 1 + scale1) + shift1)
        return x + gate2 * self.mlp(self.norm2(x, 1 + scale2) + shift2)

    def attention(self, x: jax.Array) -> jax.Array:
        """Multi-head self-attention, `[B, N, hidden]` to the same."""
        b, n, hidden = x.shape
        # Tokens first until the products: norms and rotations then go through the memory as it lies.
        qkv, head = jnp.split(keep(self.qkv(x)), 3, axis=-1), hidden // self.num_heads
        q, k, v = (a.reshape(b, n, self.num_heads, head) for a in qkv)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.rope:
            angles = [table[:, None] for table in rotary_angles(n, head)]
            q, k = rotate(q, *angles), rotate(k, *angles)
        q, k, v = (a.astype(self.attention_dtype).swapaxes(1, 2) for a in (q, k, v))
        attended = attend(q, k, v) if self.flash is None else flash_attend(q, k, v, self.flash)
        # Not kept: the smallest product of all, which the backward pass wants for the gradient of the gate alone.
        return self.attention_out(attended.astype(x.dtype).swapaxes(1, 2).reshape(b, n, hidden))

    def mlp(self, x: jax.Array) -> jax.Array:
        """SwiGLU (Shazeer 2020) or exact-GELU MLP, `[B, N, hidden]` to the same."""
        keep_hidden = (lambda h: h) if self.remat_mlp else keep
        h = keep_hidden(self.mlp_in(x))
        if self.mlp_gate is None:
            return keep(self.mlp_out(jax.nn.gelu(h, approximate=False)))
        return keep(self.mlp_out(jax.nn.silu(h) * keep_hidden(self.mlp_gate(x))))


def make_norm(features: int, rms_norm: bool, affine: bool = False) -> RMSNorm | LayerNorm:
    """RMSNorm (always with a gain), or LayerNorm with or without gain and bias."""
    return RMSNorm(features) if rms_norm else LayerNorm(features, affine=affine)


class DiT(nnx.Module):
    """One-step generator: noise, class labels and guidance scale to images or latents.

    Args:
        input_size: side of the noise image and of the output, or their height and width.
        patch_size: side of a token; divides them.
        in_channels, out_channels: channels of the noise image and of the output.
        hidden_size, depth, num_heads, mlp_ratio: the transformer (`PRESETS`); heads divide the hidden size.
        cond_dim: width of the condition vector.
        num_classes: classes of the label embedding, at least 1.
        register_tokens: tokens prepended to the image's, made from the condition (the paper's class tokens).
        style_tokens, style_codebook: that many integer noise inputs, each an embedding out of so many; 0 = none.
        qk_norm, swiglu, rope, rms_norm: the LightningDiT options.
        dtype: what the network computes in; parameters, norm statistics, condition and output are float32.
        attention_dtype: what queries, keys and values are cast to; None = `dtype`.
        remat: keep only each block's input for the backward pass; otherwise also its products with weights.
        remat_mlp: of these not the products that make the MLP's hidden layer, which are the widest.
        flash: the platform whose attention kernel is used, see `flash_attend`; None = attention by plain products. It
            is no setting of a trained network: the same parameters work with either.

    Raises:
        ArgumentError: sizes that do not divide each other.
    """

    rounded = ("modulation_kernel", "modulation_bias", "pos_embed", "register_embed")
    class_axes: ClassVar = {"label_embed": 0}
    position_tables = ("pos_embed",)
    adaptable = ("input_size", "num_classes", "dtype", "attention_dtype", "remat", "remat_mlp", "flash")

    def __init__(
        self,
        *,
        input_size: int | Sequence[int],
        patch_size: int,
        in_channels: int,
        out_channels: int,
        hidden_size: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        cond_dim: int,
        num_classes: int,
        register_tokens: int,
        style_tokens: int,
        style_codebook: int,
        qk_norm: bool,
        swiglu: bool,
        rope: bool,
        rms_norm: bool,
        dtype: DTypeLike,
        attention_dtype: DTypeLike | None,
        remat: bool,
        remat_mlp: bool = False,
        flash: str | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        _check_sizes(input_size, patch_size, hidden_size, num_heads, rope, num_classes, style_tokens, style_codebook)
        (height, width), self.patch_size = height_and_width(input_size), patch_size
        self.noise_shape, self.sample_shape = (height, width, in_channels), (height, width, out_channels)
        self.remat, self.dtype, self.grid = remat, jnp.dtype(dtype), (height // patch_size, width // patch_size)

        def linear(inputs: int, outputs: int, init: nnx.Initializer, compute: DTypeLike = self.dtype) -> Linear:
            return Linear(inputs, outputs, dtype=compute, init=init, rngs=rngs)

        def table(*shape: int) -> nnx.Param[jax.Array]:
            return nnx.Param(_normal(rngs.params(), shape, jnp.float32))

        self.label_embed = table(num_classes, cond_dim)
        self.style_embed = table(style_tokens, style_codebook, cond_dim) if style_tokens else None
        self.alpha_in = linear(ALPHA_FEATURES, cond_dim, _normal, jnp.float32)
        self.alpha_out = linear(cond_dim, cond_dim, _normal, jnp.float32)
        self.alpha_norm = RMSNorm(cond_dim)

        self.patch_embed = linear(patch_size**2 * in_channels, hidden_size, _xavier)
        self.pos_embed = nnx.Param(jnp.asarray(sincos_table(*self.grid, hidden_size)))
        self.register_proj = linear(cond_dim, hidden_size, _xavier) if register_tokens else None
        self.register_embed = table(register_tokens, hidden_size) if register_tokens else None

        block: dict[str, Any] = dict(hidden_size=hidden_size, num_heads=num_heads, mlp_ratio=mlp_ratio, qk_norm=qk_norm)
        block |= dict(swiglu=swiglu, rope=rope, rms_norm=rms_norm, dtype=self.dtype, attention_dtype=attention_dtype)
        block |= dict(flash=flash, remat_mlp=remat_mlp)
        # One array each for all blocks, so that one matrix product modulates them all.
        self.modulation_kernel = nnx.Param(jnp.zeros((depth, cond_dim, 6 * hidden_size), jnp.float32))
        self.modulation_bias = nnx.Param(jnp.zeros((depth, 6 * hidden_size), jnp.float32))
        self.blocks = _stacked_blocks(depth, rngs, block)

        self.final_modulation = linear(cond_dim, 2 * hidden_size, _zeros)
        self.final_norm = make_norm(hidden_size, rms_norm)
        self.final = linear(hidden_size, patch_size**2 * out_channels, _zeros)

    def __call__(self, noise: Noise, labels: jax.Array, alpha: jax.Array | float) -> jax.Array:
        """One network evaluation: noise to samples.

        Args:
            noise: `{"image": [B, H, W, C] float32, "style": [B, T] int32}`; no "style" without style tokens.
            labels: `[B]` int32.
            alpha: guidance scale, `[B]` or one for all.

        Returns:
            Float32 `[B, H, W, C_out]`, unbounded.
        """
        condition = self.condition(noise, labels, alpha)
        activated = jax.nn.silu(condition).astype(self.dtype)
        x, registers = self._tokens(noise["image"], condition)
        x = self._transform(x, activated)[:, registers:]
        shift, scale = jnp.split(self.final_modulation(activated)[:, None], 2, axis=-1)
        x = self.final(self.final_norm(x, 1 + scale) + shift).astype(jnp.float32)
        return unpatchify(x.reshape(x.shape[0], *self.grid, x.shape[-1]), self.patch_size)

    def condition(self, noise: Noise, labels: jax.Array, alpha: jax.Array | float) -> jax.Array:
        """The condition vector, float32 `[B, cond_dim]`: label, style tokens and guidance scale, added."""
        condition = embed(self.label_embed[...][None], labels[:, None])
        if self.style_embed is not None:
            condition += embed(self.style_embed[...], noise["style"])
        alphas = jnp.broadcast_to(jnp.asarray(alpha, jnp.float32), labels.shape)
        scale = self.alpha_out(jax.nn.silu(self.alpha_in(fourier_features(alphas, ALPHA_FEATURES))))
        return condition + ALPHA_WEIGHT * self.alpha_norm(scale)

    def sample_noise(self, key: jax.Array) -> Noise:
        """The noise of one sample, without a batch axis: mapped over per-sample keys, batch layout changes nothing."""
        image_key, style_key = jax.random.split(key)
        noise = {"image": jax.random.normal(image_key, self.noise_shape, jnp.float32)}
        if self.style_embed is not None:
            tokens, codebook, _ = self.style_embed.shape
            noise["style"] = jax.random.randint(style_key, (tokens,), 0, codebook, jnp.int32)
        return noise

    def _tokens(self, image: jax.Array, condition: jax.Array) -> tuple[jax.Array, int]:
        """Register tokens, then the image's, `[B, N, hidden]`; and how many registers there are."""
        patches = patchify(image.astype(self.dtype), self.patch_size)
        tokens = self.patch_embed(patches.reshape(patches.shape[0], -1, patches.shape[-1]))
        tokens += self.pos_embed[...].astype(self.dtype)
        if self.register_proj is None or self.register_embed is None:
            return tokens, 0
        embed = self.register_embed[...]
        registers = self.register_proj(condition)[:, None] + embed.astype(self.dtype)
        return jnp.concatenate([registers, tokens], axis=1), embed.shape[0]

    def _transform(self, x: jax.Array, activated: jax.Array) -> jax.Array:
        """All blocks, `[B, N, hidden]` to the same, given `silu(condition)`."""
        kernel, bias = self.modulation_kernel[...], self.modulation_bias[...]
        modulation = jnp.einsum("bc,dcm->dbm", activated, kernel.astype(self.dtype))
        modulation += bias.astype(self.dtype)[:, None]
        modulation = modulation.reshape(*modulation.shape[:2], 6, x.shape[-1])
        graphdef, params = nnx.split(self.blocks)

        def block(x: jax.Array, layer: tuple[nnx.State, jax.Array]) -> tuple[jax.Array, None]:
            params, modulation = layer
            return nnx.merge(graphdef, params)(x, modulation), None

        # Without `remat` the products with weights are kept and the rest, cheap but bulky, is computed again.
        body = jax.checkpoint(block, policy=None if self.remat else kept_by_name, prevent_cse=False)
        return jax.lax.scan(body, x, (params, modulation))[0]

    @staticmethod
    def token_grid(arguments: Mapping[str, Any]) -> tuple[int, int]:
        """Rows and columns of the image's tokens, for constructor arguments."""
        height, width = height_and_width(arguments["input_size"])
        return height // arguments["patch_size"], width // arguments["patch_size"]

    @staticmethod
    def check_settings(settings: Mapping[str, Any]) -> None:
        """Refuses settings with which no `DiT` can be made, whatever its samples are.

        Args:
            settings: the section `model` of a configuration, each number within its range. The size is given by
                `preset`, a key of `PRESETS`, or by `hidden_size`, `depth` and `num_heads`.

        Raises:
            ValueError: `KEY=VALUE: REMEDY`, for the first setting that is wrong.
        """
        for key, value in settings["options"].items():
            require_setting(False, f"options.{key}", value, "name='dit' takes no options: leave it out")
        require_dtype("dtype", settings["dtype"])
        if settings["attention_dtype"] is not None:
            require_dtype("attention_dtype", settings["attention_dtype"])
        preset, sizes = settings["preset"], {key: settings[key] for key in ("hidden_size", "depth", "num_heads")}
        if preset is not None:
            require_setting(preset in PRESETS, "preset", preset, f"use one of {', '.join(PRESETS)}")
            for key, value in sizes.items():
                remedy = f"preset={preset!r} sets it: set {', '.join(f'{size}=None' for size in sizes)}"
                require_setting(value is None, key, value, f"{remedy}, or preset=None and give all of them")
            return
        for key, value in sizes.items():
            require_setting(value is not None, key, value, f"give it, or a preset out of {', '.join(PRESETS)}")
        hidden, heads = sizes["hidden_size"], sizes["num_heads"]
        require_setting(hidden % 4 == 0, "hidden_size", hidden, "must be a multiple of 4 (sine-cosine positions)")
        require_setting(hidden % heads == 0, "num_heads", heads, f"must divide hidden_size={hidden}")
        remedy = f"rope needs heads of even width, these have {hidden // heads}"
        require_setting(not settings["rope"] or hidden // heads % 2 == 0, "num_heads", heads, remedy)

    @staticmethod
    def arguments(settings: Mapping[str, Any], shape: tuple[int, int, int], num_classes: int) -> dict[str, Any]:
        """Constructor arguments of the `DiT` for samples of `shape` (height, width, channels), JSON-able.

        Args:
            settings: see `check_settings`.

        Raises:
            ValueError: the patches do not divide the samples.
        """
        height, width, channels = shape
        divisors = [side for side in (1, 2, 4, 7, 8, 14, 16) if height % side == width % side == 0]
        remedy = f"must divide the {height}x{width} samples: use one of {', '.join(map(str, divisors))}"
        patch = settings["patch_size"]
        require_setting(height % patch == width % patch == 0, "patch_size", patch, remedy)
        chosen = {key: settings[key] for key in ("hidden_size", "depth", "num_heads")}
        sizes = PRESETS[settings["preset"]] if settings["preset"] else chosen
        return {**sizes, **{key: settings[key] for key in DIT_SETTINGS}} | dict(
            input_size=height if height == width else [height, width],
            in_channels=channels,
            out_channels=channels,
            cond_dim=settings["cond_dim"] or sizes["hidden_size"],
            num_classes=num_classes,
        )


def _stacked_blocks(depth: int, rngs: nnx.Rngs, options: dict[str, Any]) -> DiTBlock:
    """`depth` blocks as one `DiTBlock` whose parameters have a leading depth axis, each drawn from its own key."""

    @nnx.split_rngs(splits=depth)
    @nnx.vmap(in_axes=0, out_axes=0)
    def make(rngs: nnx.Rngs) -> DiTBlock:
        return DiTBlock(**options, rngs=rngs)

    return make(rngs)


def _check_sizes(
    input_size: int | Sequence[int],
    patch_size: int,
    hidden_size: int,
    num_heads: int,
    rope: bool,
    num_classes: int,
    style_tokens: int,
    style_codebook: int,
) -> None:
    divides = all(side % patch_size == 0 for side in height_and_width(input_size))
    require_argument(divides, "patch_size", patch_size, f"must divide input_size {input_size}")
    require_argument(hidden_size % num_heads == 0, "num_heads", num_heads, f"must divide hidden_size {hidden_size}")
    remedy = "must be a multiple of 4 (2-D sine-cosine positions)"
    require_argument(hidden_size % 4 == 0, "hidden_size", hidden_size, remedy)
    remedy = f"makes heads {hidden_size // num_heads} wide, which must be even for rotary positions"
    require_argument(not rope or hidden_size // num_heads % 2 == 0, "num_heads", num_heads, remedy)
    remedy = "must be at least 1: use 1 and label 0 for unlabelled data"
    require_argument(num_classes >= 1, "num_classes", num_classes, remedy)
    some = not style_tokens or style_codebook >= 1
    require_argument(some, "style_codebook", style_codebook, f"must be at least 1 with style_tokens {style_tokens}")
