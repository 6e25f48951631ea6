"""A small generator for low-dimensional targets."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from drifting.errors import require_argument
from drifting.networks.dit import Noise
from drifting.networks.layers import Linear, embed, numbered, require_dtype, require_setting


class MLP(nnx.Module):
    """Multilayer perceptron from noise to points, with the call signature of `DiT`.

    Args:
        noise_dim, out_dim: dimensions of the noise and of a sample.
        hidden_size, depth: width, and number of linear layers (`depth - 1` hidden ones, each with a SiLU).
        num_classes: with classes, embeddings of the label and of log(alpha) are added to the first hidden layer;
            with 0 the network is unconditional and reads neither.
        dtype: what the network computes in; parameters and output are float32.

    Raises:
        ArgumentError: fewer than 2 layers.
    """

    class_axes: ClassVar = {"label_embed/embedding": 0}
    adaptable = ("num_classes", "dtype")

    def __init__(
        self,
        *,
        noise_dim: int,
        out_dim: int,
        hidden_size: int,
        depth: int,
        num_classes: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        require_argument(depth >= 2, "depth", depth, "must be at least 2: an input and an output layer")
        dtype = jnp.dtype(dtype)

        def linear(inputs: int, outputs: int) -> Linear:
            return Linear(inputs, outputs, dtype=dtype, init=nnx.initializers.he_normal(), rngs=rngs)

        self.noise_dim, self.sample_shape, self.dtype = noise_dim, (out_dim,), dtype
        self.first = linear(noise_dim, hidden_size)
        self.hidden = nnx.Dict({f"layer{i}": linear(hidden_size, hidden_size) for i in range(1, depth - 1)})
        self.last = linear(hidden_size, out_dim)
        self.label_embed = nnx.Embed(num_classes, hidden_size, dtype=dtype, rngs=rngs) if num_classes else None
        self.alpha_embed = linear(1, hidden_size) if num_classes else None

    def __call__(self, noise: Noise, labels: jax.Array, alpha: jax.Array | float) -> jax.Array:
        """`{"image": [B, noise_dim]}`, labels `[B]` and guidance scale (`[B]` or one for all) to `[B, out_dim]`."""
        x = self.first(noise["image"].astype(self.dtype))
        if self.label_embed is not None and self.alpha_embed is not None:
            alphas = jnp.broadcast_to(jnp.asarray(alpha, jnp.float32), labels.shape)
            embedded = embed(self.label_embed.embedding[...][None], labels[:, None]).astype(self.dtype)
            x += embedded + self.alpha_embed(jnp.log(alphas)[:, None])
        for name in numbered("layer", self.hidden):
            x = self.hidden[name](jax.nn.silu(x))
        return self.last(jax.nn.silu(x)).astype(jnp.float32)

    def sample_noise(self, key: jax.Array) -> Noise:
        """The noise of one sample, without a batch axis."""
        return {"image": jax.random.normal(key, (self.noise_dim,), jnp.float32)}

    @staticmethod
    def check_settings(settings: Mapping[str, Any]) -> None:
        """Refuses settings with which no `MLP` can be made.

        Args:
            settings: the section `model` of a configuration: `hidden_size`, `depth`, `noise_dim` and `dtype`.

        Raises:
            ValueError: `KEY=VALUE: REMEDY`, for the first setting that is wrong.
        """
        for key, value in settings["options"].items():
            require_setting(False, f"options.{key}", value, "name='mlp' takes no options: leave it out")
        require_dtype("dtype", settings["dtype"])
        remedy = "presets are sizes of name='dit': give hidden_size and depth"
        require_setting(settings["preset"] is None, "preset", settings["preset"], remedy)
        for key, least in {"hidden_size": 1, "depth": 2}.items():
            value = settings[key]
            require_setting(value is not None and value >= least, key, value, f"give {least} or more")

    @staticmethod
    def arguments(settings: Mapping[str, Any], shape: tuple[int, int, int], num_classes: int) -> dict[str, Any]:
        """Constructor arguments of the `MLP` for samples of `shape` (height, width, channels), JSON-able."""
        return dict(
            noise_dim=settings["noise_dim"],
            out_dim=shape[0] * shape[1] * shape[2],
            hidden_size=settings["hidden_size"],
            depth=settings["depth"],
            num_classes=num_classes,
            dtype=settings["dtype"],
        )
