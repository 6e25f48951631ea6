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

from drifting.assembly import networks
from drifting.assembly.spaces import sample_space
from drifting.config.schema import Config, ema_decay
from drifting.errors import ArgumentError, ConfigError, as_argument, require_argument
from drifting.method.space import SampleSpace
from drifting.networks.network import Generator, Params
from drifting.runs.checkpoints import Checkpoints, abstract
from drifting.runs.directory import read_config
from drifting.weights.artifact import Artifact
from drifting.weights.catalogue import RELEASED_ALPHA, RELEASED_VAE
from drifting.weights.load import load_weights

logger = logging.getLogger("drifting")

GENERATOR = "generator"

LATENT_CHANNELS, LATENT_FACTOR = 4, 8


@dataclass(frozen=True)
class Usage:
    """What is needed to use a generator besides the network; JSON-able, part of published metadata.

    Attributes:
        image_shape: height, width and channels of its images.
        vae: the reference of the VAE that decodes its samples; None: they are images.
        class_names: a name for each label.
        alpha: the guidance scale to draw with.
        alpha_range: the lowest and the highest scale it was trained with.
    """

    image_shape: Sequence[int]
    vae: str | None
    class_names: Sequence[str]
    alpha: float
    alpha_range: Sequence[float]

    @classmethod
    def of_run(cls, config: Config, facts: Mapping[str, Any]) -> Self:
        """How the generator of a run is used; `facts` are the `fingerprint.data_facts` of its data."""
        return cls(
            image_shape=facts["shape"],
            vae=config.data.vae,
            class_names=facts["classes"],
            alpha=config.eval.alpha,
            alpha_range=(config.guidance.alpha_min, config.guidance.alpha_max),
        )


@dataclass(frozen=True)
class TrainedGenerator:
    """A generator, its parameters, and what is needed to use them.

    Attributes:
        generator: the network without its parameters.
        params: its parameters.
        arguments: the arguments of the network's constructor, JSON-able.
        space: what its samples are: images, or latents that it decodes.
        usage: how it is used, see `Usage`.
        step: after which step of training it was taken; None: that is not known.
        ema_decay: the decay of the average that `params` are; None: they are no average.
        facts: a run's facts about data and weights, see `Training.identity`; of published weights, all their metadata.
        config: the run's settings; None for published weights.
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

    @classmethod
    def from_run(cls, workdir: Path, average: float | None = None, vae: str | None = None) -> Self:
        """The averaged generator of the latest checkpoint of what `drifting train` wrote.

        Args:
            workdir: the run's directory.
            average: decay of the average to use; None: see `ema_decay`.
            vae: where the VAE of its latents lies, if not where the run says.

        Raises:
            ConfigError: there is no run, no checkpoint, or no such average.
            InputError: the checkpoint cannot be read.
        """
        config = read_config(workdir)
        decay, checkpoints = ema_decay(config, average), Checkpoints(workdir)
        step = checkpoints.latest_intact()
        if step is None:
            raise ArgumentError("workdir", workdir, "has no checkpoint yet; run `drifting train` first")
        facts: dict[str, Any] = checkpoints.read_run(step)["identity"]
        if vae is not None:
            config = dataclasses.replace(config, data=dataclasses.replace(config.data, vae=vae))
        usage = Usage.of_run(config, facts)
        space = sample_space(usage.vae, image_shape(usage))
        for name, checksum in space.checksums.items():
            if facts["weights"].get(name) != checksum:
                raise ConfigError(f"data.vae={usage.vae!r}: its weights are not those {workdir} was trained with")
        generator, init = networks.generator(config.model, space.shape, len(usage.class_names), config.train.seed)
        average_of = {str(decay): abstract(jax.eval_shape(init))}
        return cls(
            generator=generator,
            params=checkpoints.restore_part(step, "ema", average_of)[str(decay)],
            arguments=networks.generator_arguments(config.model, space.shape, len(usage.class_names)),
            space=space,
            usage=usage,
            step=step,
            ema_decay=decay,
            facts=facts,
            config=config,
        )

    @classmethod
    def from_weights(cls, weights: str, vae: str | None = None) -> Self:
        """A published generator: a folder or `hf://OWNER/REPO[@REVISION][/FOLDER]`, of ours or a released one.

        Args:
            weights: where they lie.
            vae: where the VAE of its latents lies, if not where the weights say.

        Raises:
            ConfigError: the weights cannot be had, are no generator's, or do not fit the VAE.
        """
        with as_argument("weights", weights):
            artifact = load_weights(weights, GENERATOR)
        usage = _published_usage(weights, artifact)
        require_argument(usage.vae is not None or vae is None, "vae", vae, "this generator draws images: leave it out")
        with as_argument("vae", vae or usage.vae):
            space = sample_space(vae or usage.vae, image_shape(usage))
        found, drawn = space.shape, _sample_shape(artifact, space.shape)
        require_argument(
            found == drawn, "vae", vae or usage.vae, f"its latents are {found}, the generator's are {drawn}"
        )
        return cls(
            generator=networks.generator_of(artifact.model_config, space.shape),
            params=jax.tree.map(jnp.asarray, artifact.params),
            arguments=artifact.model_config,
            space=space,
            usage=usage,
            step=artifact.metadata.get("step"),
            ema_decay=artifact.metadata.get("ema_decay"),
            facts=artifact.metadata,
            config=None,
        )

    def params_checksum(self) -> str:
        """SHA-256 of published weights' file, or of a run's parameters, all of which are then fetched and hashed.

        It says which parameters these are. A folder and a step do not: a run may have been trained anew.
        """
        return self.facts.get("sha256") or params_sha256(self.params)

    def alpha(self, alpha: float | None) -> float:
        """The guidance scale asked for, or the default; warns about one the generator was not trained with.

        Raises:
            ConfigError: it is not a positive number.
        """
        alpha = self.usage.alpha if alpha is None else alpha
        require_argument(0 < alpha < math.inf, "alpha", alpha, "use a positive guidance scale")
        low, high = self.usage.alpha_range
        if not low <= alpha <= high:
            logger.warning("alpha=%g lies outside the trained range [%g, %g]", alpha, low, high)
        return alpha


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


def _published_usage(weights: str, artifact: Artifact) -> Usage:
    """How to use published weights: as they say, or, for the released ones, as their recipes say."""
    arguments, stated = artifact.model_config, artifact.metadata.get("usage")
    if stated is not None:
        wrong = "its metadata do not say how to use it"
        names = {field.name for field in dataclasses.fields(Usage)}
        if not isinstance(stated, dict) or set(stated) != names:
            raise ArgumentError("weights", weights, f"{wrong}: usage must have {', '.join(sorted(names))}")
        if len(stated["class_names"]) != (arguments["num_classes"] or 1) or len(stated["image_shape"]) != 3:
            raise ArgumentError("weights", weights, f"{wrong}: class_names or image_shape are not those of the network")
        return Usage(**stated)
    latent = arguments["in_channels"] == LATENT_CHANNELS
    side = arguments["input_size"] * (LATENT_FACTOR if latent else 1)
    return Usage(
        image_shape=(side, side, 3 if latent else arguments["in_channels"]),
        vae=RELEASED_VAE if latent else None,
        class_names=tuple(str(label) for label in range(arguments["num_classes"])),
        alpha=RELEASED_ALPHA.get(weights.rstrip("/").rpartition("/")[2], 1.0),
        alpha_range=(1.0, 4.0),
    )


def _sample_shape(artifact: Artifact, default: tuple[int, int, int]) -> tuple[int, int, int]:
    """What a transformer draws; other networks draw whatever shape is asked of them."""
    if "input_size" not in artifact.model_config:
        return default
    side = artifact.model_config["input_size"]
    return (side, side, artifact.model_config["out_channels"])
