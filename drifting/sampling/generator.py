"""A generator that has been trained, from a run's directory or from published weights; its data are not needed."""

import dataclasses
import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from drifting.assembly import networks
from drifting.assembly.spaces import sample_space
from drifting.config.arguments import check_drawing, checked_arguments
from drifting.config.paths import is_address, is_place
from drifting.config.schema import Config, ema_decay
from drifting.errors import ArgumentError, ConfigError, InputError, as_argument, counted, require_argument
from drifting.method.space import SampleSpace
from drifting.networks.autoencoder import Autoencoder
from drifting.networks.network import Generator, Params, generator_of, sample_shape
from drifting.runs.checkpoints import Checkpoints, abstract
from drifting.runs.directory import CONFIG_FILE, read_config
from drifting.runs.files import exists
from drifting.runs.places import place
from drifting.sampling.labels import class_labels
from drifting.sampling.sampler import SAMPLER_BLOCK, Sampler
from drifting.weights.artifact import GENERATOR_KIND, Artifact, other_vae
from drifting.weights.averages import reconstruct
from drifting.weights.load import load_weights
from drifting.weights.references import network

logger = logging.getLogger("drifting")

UNTRAINED_SHARE = 0.5
"""An average is warned of that consists of the parameters before the first step to more than this share."""


@dataclass(frozen=True)
class Usage:
    """What is needed to use a generator besides the network; JSON-able, part of published metadata.

    Attributes:
        image_shape: height, width and channels of its images.
        vae: the reference of the VAE that decodes its samples; None: they are images.
        class_names: a name for each label.
        alpha: the guidance scale to draw with.
        alpha_range: the lowest and the highest scale it was trained with; None: that is not known.
        latents: how its latents are scaled, see `drifting.networks.autoencoder.scale_of`; None: as the VAE says.
    """

    image_shape: Sequence[int]
    vae: str | None
    class_names: Sequence[str]
    alpha: float
    alpha_range: Sequence[float] | None
    latents: Mapping[str, Any] | None = None

    @classmethod
    def of_run(cls, config: Config, facts: Mapping[str, Any]) -> Self:
        """How the generator of a run is used; `facts` are the `fingerprint.data_facts` of its data."""
        return cls(
            image_shape=facts["shape"],
            vae=config.data.vae,
            class_names=facts["classes"],
            alpha=config.eval.alpha,
            alpha_range=(config.guidance.alpha_min, config.guidance.alpha_max),
            latents=facts.get("latents"),
        )


@dataclass(frozen=True, repr=False)
class TrainedGenerator:
    """A generator, its parameters, and what is needed to use them.

    Attributes:
        generator: the network without its parameters.
        params: the network's parameters.
        arguments: the arguments of the network's constructor, JSON-able.
        space: what its samples are: images, or latents that it decodes.
        usage: how it is used, see `Usage`.
        step: after which step of training it was taken; None: that is not known.
        ema_decay: the decay of the average that `params` are; None: they are no average.
        facts: a run's facts about data and weights, see `Run.identity`; of published weights, all their metadata.
        config: the run's settings; None for published weights.
        ema_std: the relative width of the average that `params` are; None: it is no such average.
    """

    generator: Generator
    params: Params
    arguments: dict[str, Any]
    space: SampleSpace
    usage: Usage
    step: int | None
    ema_decay: float | None
    facts: dict[str, Any]
    config: Config | None
    ema_std: float | None = None

    @classmethod
    @checked_arguments
    def from_run(
        cls, workdir: str | Path, average: float | None = None, vae: str | None = None, std: float | None = None
    ) -> Self:
        """The averaged generator of the latest checkpoint of what `drifting train` wrote.

        Args:
            workdir: the run's directory.
            average: decay of the average to use; None: see `ema_decay`.
            vae: where the VAE of its latents lies, if not where the run says.
            std: width of the average to make of those that the run stored, in place of `average`, see `train.ema_stds`.

        Raises:
            ConfigError: there is no run, no checkpoint, or no such average.
            InputError: the checkpoint cannot be read.
        """
        workdir = place(workdir)
        config = read_config(workdir)
        decay, checkpoints = ema_decay(config, average), Checkpoints(workdir)
        step = checkpoints.latest_intact()
        if step is None:
            raise ArgumentError("workdir", workdir, "has no checkpoint yet; run `drifting train` first")
        facts: dict[str, Any] = checkpoints.read_run(step)["identity"]
        if vae is not None:
            config = dataclasses.replace(config, data=dataclasses.replace(config.data, vae=vae))
        usage = Usage.of_run(config, facts)
        space = sample_space(usage.vae, image_shape(usage), scale=usage.latents)
        for name, checksum in space.checksums.items():
            if facts["weights"].get(name) != checksum:
                raise ConfigError(f"data.vae={usage.vae!r}: its weights are not those {workdir} was trained with")
        generator, init = networks.generator(config.model, space.shape, len(usage.class_names), config.train.seed)
        shapes = abstract(jax.eval_shape(init))
        if std is None:
            params = checkpoints.restore_part(step, "ema", {str(decay): shapes})[str(decay)]
        else:
            step, params = reconstruct(workdir, std, shapes)
        return cls(
            generator=generator,
            params=params,
            arguments=networks.generator_arguments(config.model, space.shape, len(usage.class_names)),
            space=space,
            usage=usage,
            step=step,
            ema_decay=decay if std is None else None,
            ema_std=std,
            facts=facts,
            config=config,
        )

    @classmethod
    @checked_arguments
    def from_weights(cls, weights: str, vae: str | None = None) -> Self:
        """A published generator: a folder or `hf://OWNER/REPO[@REVISION][/FOLDER]`, of ours or a released one.

        Warns of a VAE of other weights than that in whose latents it has learned, where that is known.

        Args:
            weights: where they lie.
            vae: where the VAE of its latents lies, if not where the weights say.

        Raises:
            InputError: the weights cannot be had, are no generator's, or do not say how to use them.
            ArgumentError: `vae` is missing, cannot be had, or is for other samples.
            HubError: they cannot be downloaded.
        """
        with as_argument("weights", weights):
            artifact = load_weights(weights, GENERATOR_KIND)
        described = _stated if artifact.metadata.get("usage") is not None else _unstated
        usage, space = described(weights, artifact, vae)
        if other := other_vae(artifact.metadata.get("vae_sha256"), space.checksums.get("vae")):
            logger.warning("vae=%s: %s: where it is not the same in another form, images come out wrong",
                           vae or usage.vae, other)  # fmt: skip
        return cls(
            generator=generator_of(artifact.network, artifact.model_config, space.shape),
            params=jax.tree.map(jnp.asarray, artifact.params),
            arguments=artifact.model_config,
            space=space,
            usage=usage,
            step=artifact.metadata.get("step"),
            ema_decay=artifact.metadata.get("ema_decay"),
            ema_std=artifact.metadata.get("ema_std"),
            facts=artifact.metadata,
            config=None,
        )

    def params_checksum(self) -> str:
        """SHA-256 of published weights' file, or of a run's parameters, all of which are then fetched and hashed.

        It says which parameters these are. A folder and a step do not: a run may have been trained anew.
        """
        return self.facts.get("sha256") or params_sha256(self.params)

    @checked_arguments
    def alpha(self, alpha: float | None) -> float:
        """The guidance scale asked for, or the default; warns about one the generator was not trained with.

        Raises:
            ConfigError: it is not a positive number.
        """
        alpha = self.usage.alpha if alpha is None else alpha
        require_argument(0 < alpha < math.inf, "alpha", alpha, "use a positive guidance scale")
        low, high = self.usage.alpha_range or (0.0, math.inf)
        if not low <= alpha <= high:
            logger.warning("alpha=%g lies outside the trained range [%g, %g]", alpha, low, high)
        return alpha

    def tell(self, name: str) -> None:
        """Warns, by the `name` that a person gave it, of an average that is mostly that of an untrained network."""
        decay, step = self.ema_decay, self.step
        share = 0.0 if decay is None or step is None else decay**step
        if share > UNTRAINED_SHARE and step is not None:
            logger.warning(
                "%s: the average of decay %g after %s holds %.0f %% of the untrained parameters: "
                "it draws nearly what an untrained generator does", name, decay, counted(step, "step"), 100 * share,
            )  # fmt: skip

    @checked_arguments
    def sampler(self, batch_size: int, count: int) -> Sampler:
        """Draws on all devices of this process, as far as there are blocks for them among `count` images.

        Raises:
            ArgumentError: there are no images in flight, or less than none to draw.
        """
        require_argument(batch_size > 0, "batch_size", batch_size, "use 1 or more")
        require_argument(count >= 0, "count", count, "use 0 or more")
        devices = jax.local_devices()[: max(1, -(-count // SAMPLER_BLOCK))]
        return Sampler(self.generator, self.space, batch_size, devices)

    @checked_arguments
    def sample(
        self, classes: Sequence[str | int] | np.ndarray, seed: int = 0, alpha: float | None = None, batch_size: int = 64
    ) -> NDArray[np.float32]:
        """Images `[N, H, W, C]` float32 in [-1, 1], in one evaluation of the network each.

        Args:
            classes: the class of each image, by its number or its name.
            seed: image `i` depends on its own seed `seed + i`, on its class and on `alpha` alone.
            alpha: the guidance scale; None: that of `usage`.
            batch_size: images in flight; they do not depend on it.

        Raises:
            ArgumentError: there is no such class, `alpha` is not positive, or a seed is out of range.
        """
        given = np.atleast_1d(classes).tolist() if isinstance(classes, np.ndarray) else list(classes)
        labels = np.asarray(class_labels(given, self.usage.class_names), np.int32)
        alpha = self.alpha(alpha)
        check_drawing(seed, len(labels), alpha)
        seeds = np.arange(seed, seed + len(labels)).astype(np.uint32)
        images = self.sampler(batch_size, len(labels))(self.params, labels, seeds, alpha)
        return np.clip(images, -1, 1)

    def __repr__(self) -> str:
        what = "x".join(map(str, self.usage.image_shape))
        count = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        classes = counted(len(self.usage.class_names), "class")
        return f"<generator of {what} images, {classes}, {counted(count, 'parameter')}>"


@checked_arguments
def load(reference: str | Path, *, average: float | None = None, vae: str | None = None) -> TrainedGenerator:
    """A trained generator, to draw images with (`sample`) or to score (`drifting.score`).

    Args:
        reference: the folder of a run that `drifting train` wrote; or published weights, a folder or
            `hf://OWNER/REPO[@REVISION][/FOLDER]`, of ours or a released one.
        average: the decay of the average of a run's parameters that is used; None: `eval.ema_decay`, or else its first.
        vae: where the VAE of its latents lies, if not where the run or the weights say.

    Raises:
        ConfigError: there is no such run, no checkpoint or no such average.
        InputError: the weights cannot be had, or are no generator's.
        HubError: they cannot be downloaded.
    """
    try:
        if is_place(reference) and exists(place(reference) / CONFIG_FILE):
            return TrainedGenerator.from_run(place(reference), average, vae)
        require_argument(average is None, "average", average, "published weights are one average: leave it out")
        return TrainedGenerator.from_weights(str(reference), vae)
    except ArgumentError as error:
        if error.argument not in ("workdir", "weights"):
            raise
        raise ArgumentError("reference", error.value, error.remedy) from error


def params_sha256(params: Params) -> str:
    """SHA-256 of the names, types, shapes and bytes of all leaves, in hexadecimal."""
    digest = hashlib.sha256()
    for name, leaf in jax.tree.leaves_with_path(params):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(name)} {array.dtype} {list(array.shape)}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def image_shape(usage: Usage) -> tuple[int, int, int]:
    """Height, width and channels of a generator's images."""
    height, width, channels = usage.image_shape
    return height, width, channels


def _stated(reference: str, artifact: Artifact, vae: str | None) -> tuple[Usage, SampleSpace]:
    """How to use published weights, and what their samples are, as their metadata say."""
    stated, wrong = artifact.metadata["usage"], f"{reference}: its metadata do not say how to use it"
    names = {field.name for field in dataclasses.fields(Usage)}
    older = names - {"latents"}  # what there was before latents could be normalised
    if not isinstance(stated, dict) or set(stated) not in (names, older):
        raise InputError(f"{wrong}: usage must have {', '.join(sorted(older))}")
    classes = artifact.model_config.get("num_classes", len(stated["class_names"])) or 1
    if len(stated["class_names"]) != classes or len(stated["image_shape"]) != 3:
        raise InputError(f"{wrong}: class_names or image_shape are not those of the network")
    usage = Usage(**stated)
    require_argument(usage.vae is not None or vae is None, "vae", vae, "this generator draws images: leave it out")
    if vae is None and usage.vae is not None and not is_address(usage.vae):
        remedy = f"is a folder's name where {reference} was trained: say where that VAE lies here"
        require_argument(Path(usage.vae).is_dir(), "vae", usage.vae, remedy)
    with as_argument("vae", vae or usage.vae):
        space = sample_space(vae or usage.vae, image_shape(usage), scale=usage.latents)
    drawn = sample_shape(artifact.network, artifact.model_config)
    fits = len(drawn) == 1 or drawn == space.shape
    require_argument(fits, "vae", vae or usage.vae, f"its latents are {space.shape}, the generator's {drawn}")
    return usage, space


def _unstated(reference: str, artifact: Artifact, vae: str | None) -> tuple[Usage, SampleSpace]:
    """How weights are used that do not say so: samples are images, or latents of the VAE that is given.

    Classes are numbers, and nothing is claimed about the guidance scale.
    """
    drawn = sample_shape(artifact.network, artifact.model_config)
    if len(drawn) != 3:
        raise InputError(f"{reference}: its metadata do not say of what shape its samples of {drawn[0]} numbers are")
    height, width, channels = drawn
    if vae is None:
        remedy = f"{reference} draws samples of {_text(drawn)}, which are no images: give the VAE that decodes them"
        require_argument(channels in (1, 3), "vae", None, remedy)
        space = SampleSpace((height, width, channels), (height, width, channels), None)
    else:
        space = _latents_of(vae, (height, width, channels))
    classes = range(artifact.model_config.get("num_classes") or 1)
    return Usage(space.image_shape, vae, tuple(map(str, classes)), alpha=1.0, alpha_range=None), space


def _latents_of(vae: str, shape: tuple[int, int, int]) -> SampleSpace:
    """The space of samples of `shape` (height, width, channels) that this VAE decodes."""
    with as_argument("vae", vae):
        found = network(vae, "vae", dtype="float32", remat=True)
    autoencoder: Autoencoder = nnx.merge(found.graphdef, found.params)
    factor, latents = autoencoder.downsampling, autoencoder.latent_channels
    fits = latents == shape[2]
    require_argument(
        fits, "vae", vae, f"its latents have {counted(latents, 'channel')}, the samples are {_text(shape)}"
    )
    return SampleSpace(shape, (shape[0] * factor, shape[1] * factor, autoencoder.out_channels), found)


def _text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
