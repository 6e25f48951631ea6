"""A run, put together from its settings: data, space of samples, feature space, generator, recipe, compiled step."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from threading import Event
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from drifting.assembly import networks
from drifting.assembly.feed import batch_names, make_feed, resident_source
from drifting.assembly.names import check_settings
from drifting.assembly.pools import banks_of, fill_banks, pool_of
from drifting.assembly.recipe import optimizer_of, recipe_of, tell_of_kernels
from drifting.assembly.spaces import (
    feature_encoder,
    features_until_loss,
    named_vae,
    normalised,
    own_encoder,
    source_space,
)
from drifting.assembly.start import Beginner, StartingPoint, begun, check_classes, start_of
from drifting.config.arguments import check_drawing, checked_arguments
from drifting.config.checks import check_layout, check_sizes
from drifting.config.schema import Config
from drifting.data.batches import Feed
from drifting.data.fingerprint import data_facts
from drifting.data.source import LabelledSource, checked_source
from drifting.data.sources import source as open_source
from drifting.devices import mesh
from drifting.devices.mesh import Layout, shardings
from drifting.errors import as_argument, require, require_argument
from drifting.method.encoders import FeatureEncoder
from drifting.method.images import generate_images
from drifting.method.placement import ONE_DEVICE
from drifting.method.pool import Batch
from drifting.method.space import SampleSpace
from drifting.method.state import TrainState, make_state
from drifting.method.step import StepParts, train_step
from drifting.networks.network import Params

EncoderFn = Callable[[Array], dict[str, Array]]
"""An encoder of one's own: `samples [B, H, W, C] -> {name: [B, positions, channels]}`, differentiable."""

Metrics = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Run:
    """Everything a training needs but its folder, made by `prepare`. A context manager: `close` ends its readers.

    Attributes:
        config: the settings, with the VAE of cached latents named.
        source: the real samples that the run trains on.
        encoder: the feature space of the loss.
        parts: what the step is compiled for.
        layout: says where every array lies.
        empty: makes the state before the first step, its banks still empty, of parameters some of which may be given,
            see `begun`; it can be jitted.
        frozen: parameters of the frozen networks, on all devices.
        widths, key: the other constants of the step.
        compiled: the jitted step, `(state, batch, frozen, widths, key) -> (state, metrics)`; the state is donated.
        feed: batches of real samples.
        identity: JSON-able facts that a run depends on and that are not settings.
    """

    config: Config
    source: LabelledSource
    encoder: FeatureEncoder
    parts: StepParts = field(repr=False)
    layout: Layout
    empty: Callable[..., TrainState] = field(repr=False)
    frozen: Params = field(repr=False)
    widths: Array = field(repr=False)
    key: Array = field(repr=False)
    compiled: Callable[..., tuple[TrainState, Metrics]] = field(repr=False)
    feed: Feed = field(repr=False)
    identity: dict[str, Any] = field(repr=False)
    _closed: Event = field(default_factory=Event, init=False, repr=False)

    @cached_property
    def start(self) -> StartingPoint | None:
        """What the run begins with in place of drawn parameters, None for nothing; read when it is first asked for.

        Raises:
            ConfigError, HubError: see `start_of`.
        """
        model, train, names = self.config.model, self.config.train, self.source.class_names
        if train.start is None:
            return None
        arguments = networks.generator_arguments(model, self.parts.space.shape, len(names))
        samples = (self.parts.space.checksums.get("vae"), self.identity.get("latents"))
        beginner = Beginner(model.name, arguments, jax.eval_shape(self.empty).params, names, *samples)
        return start_of(train.start, train.start_classes, beginner)

    def initial_state(self) -> TrainState:
        """The state before the first step, its banks filled from the feed.

        Raises:
            ConfigError, HubError: see `start`.
            ValueError: an image cannot be read, or a class has none.
        """
        taken = None if self.start is None else self.layout.put(self.start.taken)
        placed = shardings(self.layout, jax.eval_shape(self.empty))
        state = jax.jit(self.empty, out_shardings=placed)(taken)
        return fill_banks(self.config, self.parts.space, self.layout, self.source, self.feed, state, self.frozen)

    @checked_arguments
    def batches(self, steps: int) -> Iterator[Batch]:
        """Batches for so many further steps, read ahead.

        Raises:
            ArgumentError: `steps` is negative, or the run has been closed.
        """
        _check_open(self._closed)
        require_argument(steps >= 0, "steps", steps, "use 0 or more")
        return self._next(steps)

    def _next(self, steps: int) -> Iterator[Batch]:
        for _ in range(steps):
            _check_open(self._closed)
            yield next(self.feed)

    def step(self, state: TrainState, batch: Batch, measure: bool = True) -> tuple[TrainState, Metrics]:
        """The next state and the metrics of one step, see `train_step`. The state that is given is used up.

        Args:
            state: a state of this run.
            batch: one of `batches(steps)`.
            measure: whether the gap is wanted, which costs time; training computes it where it is logged.

        Raises:
            ArgumentError: `state` or `batch` is none, the state has been used up, or `measure` is no bool.
        """
        _check_state(state)
        require_argument(isinstance(measure, bool), "measure", repr(measure), "give True or False")
        remedy = f"is a {type(batch).__name__}: give one of batches(steps)"
        require_argument(isinstance(batch, dict), "batch", None, remedy)
        missing = [name for name in batch_names(self.config) if name not in batch]
        require_argument(not missing, "batch", None, f"is without {', '.join(missing)}: give one of batches(steps)")
        return self.compiled(state, batch, self.frozen, self.widths, self.key, np.bool_(measure))

    @checked_arguments
    def sample(
        self, state: TrainState, labels: Sequence[int] | np.ndarray, seed: int = 0, alpha: float | None = None
    ) -> np.ndarray:
        """Images `[N, H, W, C]` float32 in [-1, 1] of the first average of the parameters.

        Args:
            state: a state of this run.
            labels: `[N]` class of each image.
            seed: image `i` depends on the seed `seed + i` alone.
            alpha: the guidance scale; None: `eval.alpha`.

        Raises:
            ArgumentError: `state` is none or has been used up, a label is not one of the classes, or `seed` or `alpha`
                is out of range.
        """
        _check_state(state)
        given = np.asarray(labels)
        classes = self.source.num_classes
        known = given.ndim == 1 and (given.dtype.kind in "iu") and bool(np.all((given >= 0) & (given < classes)))
        require_argument(known, "labels", None, f"give class numbers from 0 to {classes - 1}, one for each image")
        labels = given.astype(np.int32)
        alpha = self.config.eval.alpha if alpha is None else alpha
        check_drawing(seed, len(labels), alpha)
        seeds = np.arange(seed, seed + len(labels)).astype(np.uint32)
        scale = np.full(len(labels), alpha, np.float32)
        params = self.layout.local(state.ema[str(self.config.train.ema_decays[0])])
        return np.clip(self._draw(params, self.parts.space.params, seeds, labels, scale), -1, 1)

    @cached_property
    def _draw(self) -> Callable[..., Array]:
        return jax.jit(partial(generate_images, self.parts.generator, self.parts.space))

    def close(self) -> None:
        """Ends the threads and processes that read ahead. The run has no further batches."""
        self._closed.set()
        self.feed.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_state(given: Any) -> None:
    remedy = f"is a {type(given).__name__}: give what initial_state() or a step gives"
    require_argument(isinstance(given, TrainState), "state", None, remedy)
    gone = any(isinstance(leaf, Array) and leaf.is_deleted() for leaf in jax.tree.leaves(given))
    require_argument(not gone, "state", None, "has been used up by a step: give the state which that step returned")


def _check_open(closed: Event) -> None:
    require_argument(not closed.is_set(), "batches", None, "the run is closed: prepare another")


def prepare(
    config: Config,
    *,
    source: LabelledSource | None = None,
    network: Callable[..., nnx.Module] | None = None,
    encoder: EncoderFn | None = None,
) -> Run:
    """Puts a run together, top to bottom; nothing is compiled yet but for what makes constants.

    Args:
        config: the settings.
        source: real samples of one's own, in place of those that `config.data` names.
        network: makes a generator of one's own, in place of the one that `config.model` describes:
            `network(rngs=nnx.Rngs)`, a module with `__call__(noise, labels, alpha)`, samples `[B, H, W, C]` for noise
            with a leading batch axis, labels `[B]` int32 and alpha `[B]` float32, and `sample_noise(key)`, the noise of
            one sample as a dict of arrays.
        encoder: a feature space of one's own, in place of that of `config.features`.

    Raises:
        ConfigError: the settings cannot work, do not fit the data or the devices, or something named is not there; or
            a part of one's own is not what it should be.
    """
    require_argument(isinstance(config, Config), "config", None, f"is a {type(config).__name__}: give Config.of(...)")
    if source is not None:
        with as_argument("source", None):
            checked_source(source)
    check_settings(config, own_network=network is not None, own_encoder=encoder is not None)
    remedy = "starts a network of config.model: give the network that is to begin with them, and leave it None"
    require(network is None or config.train.start is None, "train.start", config.train.start, remedy)
    source = open_source(config.data) if source is None else source
    check_classes(config.train.start_classes, None, source.num_classes)
    space = source_space(config.data.vae, source, config.data.normalise_latents)
    config = named_vae(config, source)
    check_sizes(config, space.shape, source.num_classes)
    layout = mesh.layout(config.mesh.data, config.mesh.fsdp, config.bank.per_device)
    check_layout(config, layout.devices, jax.process_count(), len(source))
    found = feature_encoder(config.features, space) if encoder is None else own_encoder(encoder, space)
    read, space = resident_source(config.data, source, space)
    parts, empty = set_up(config, space, found, source.num_classes, layout, network)
    tell_of_kernels(config.loss, parts.recipe.objective)
    placed = shardings(layout, jax.eval_shape(empty))
    # Arguments, not constants: runs that differ in them alone share what is compiled.
    everywhere = partial(jax.jit, out_shardings=layout.replicated)
    facts = {"sample_shape": list(space.shape), "weights": found.checksums | space.checksums}
    return Run(
        config=config,
        source=source,
        encoder=found,
        parts=parts,
        layout=layout,
        empty=empty,
        frozen=layout.put(found.params),
        widths=everywhere(lambda widths: widths)(np.asarray(config.loss.widths, np.float32)),
        key=everywhere(jax.random.key)(config.train.seed),
        compiled=jitted_step(parts, placed, layout),
        feed=make_feed(config, read, layout),
        identity=data_facts(source) | facts | normalised(config, space),
    )


def jitted_step(parts: StepParts, placed: TrainState, layout: Layout) -> Callable[..., tuple[TrainState, Metrics]]:
    """The jitted step `(state, batch, frozen, widths, key, measure) -> (state, metrics)`; the state is donated.

    `placed`: where the state lies, see `shardings`.
    """
    return jax.jit(partial(train_step, parts), donate_argnums=0, out_shardings=(placed, layout.replicated))


def set_up(
    config: Config,
    space: SampleSpace,
    encoder: FeatureEncoder,
    num_classes: int,
    layout: Layout | None = None,
    network: Callable[..., nnx.Module] | None = None,
) -> tuple[StepParts, Callable[..., TrainState]]:
    """The static parts of a step, and a jittable function that makes the state before the first, banks still empty.

    That function takes tensors by their names that are to be in the place of drawn ones, see `begun`; None: none are.

    Args:
        config: the settings.
        space: says what a sample is.
        encoder: the feature space of the loss.
        num_classes: how many classes the data have.
        layout: says where arrays lie; None: on one device.
        network: see `prepare`.
    """
    platform = None if layout is None else layout.platform
    if network is None:
        seed, where = config.train.seed, platform or "cpu"
        generator, init_params = networks.generator(config.model, space.shape, num_classes, seed, where)
    else:
        generator, init_params = networks.own_generator(network, space.shape, config.train.seed)
    optimizer = optimizer_of(config.optimizer, config.train.steps)
    placement = ONE_DEVICE if layout is None or layout.devices == 1 else layout
    recipe, features = recipe_of(config, platform), encoder.features
    if not (recipe.micro_batch or config.features.remat):
        features = features_until_loss(platform or "cpu", features)
    parts = StepParts(recipe, generator, space, features, optimizer, pool_of(config), placement)
    sets = 1 if layout is None else layout.replicas

    def empty_state(taken: dict[str, Array] | None = None) -> TrainState:
        return make_state(
            begun(init_params(), taken),
            optimizer,
            ema_decays=config.train.ema_decays,
            ema_stds=config.train.ema_stds,
            banks=banks_of(config, space, num_classes, sets),
            neighbour_scale=jnp.zeros(num_classes) if config.loss.feature_scale == "neighbour" else None,
        )

    return parts, empty_state
