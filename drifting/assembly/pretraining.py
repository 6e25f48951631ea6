"""A pre-training, put together from its settings: data, space of samples, autoencoder, compiled step."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Self

import jax
from flax import nnx
from jax import Array

from drifting.assembly import networks
from drifting.assembly.feed import reading
from drifting.assembly.names import check_settings
from drifting.assembly.recipe import optimizer_of
from drifting.assembly.spaces import named_vae, normalised, source_space
from drifting.assembly.start import Beginner, StartingPoint, begun, check_classes, start_of
from drifting.config.checks import check_layout, check_sizes
from drifting.config.schema import PretrainConfig
from drifting.data.batches import Pipeline
from drifting.data.fingerprint import data_facts
from drifting.data.source import LabelledSource
from drifting.data.sources import source as open_source
from drifting.devices import mesh
from drifting.devices.mesh import Layout, shardings
from drifting.errors import counted, require
from drifting.method.mae_step import MAERecipe, MAEStepParts, mae_step
from drifting.method.placement import ONE_DEVICE
from drifting.method.pool import Batch
from drifting.method.space import SampleSpace
from drifting.method.state import TrainState, make_state
from drifting.networks.network import Params


@dataclass(frozen=True, eq=False)
class Pretraining:
    """Everything a pre-training needs but its folder, made by `prepare_pretraining`. A context manager.

    Attributes:
        config: the settings, with the VAE of cached latents named.
        source: the real samples that the autoencoder trains on.
        arguments: constructor arguments of the autoencoder, JSON-able.
        parts: what the step is compiled for.
        layout: says where every array lies.
        empty: makes the state before the first step, of parameters some of which may be given, see `begun`; it can be
            jitted.
        frozen: parameters of the VAE of latents, on all devices.
        key: the run's key.
        compiled: the jitted step, `(state, batch, frozen, key) -> (state, metrics)`; the state is donated.
        feed: batches of real samples.
        identity: JSON-able facts that a run depends on and that are not settings.
    """

    config: PretrainConfig
    source: LabelledSource
    arguments: dict[str, Any]
    parts: MAEStepParts = field(repr=False)
    layout: Layout
    empty: Callable[..., TrainState] = field(repr=False)
    frozen: Params = field(repr=False)
    key: Array = field(repr=False)
    compiled: Callable[..., tuple[TrainState, dict[str, Array]]] = field(repr=False)
    feed: Pipeline = field(repr=False)
    identity: dict[str, Any] = field(repr=False)

    @cached_property
    def start(self) -> StartingPoint | None:
        """What the run begins with in place of drawn parameters, see `Run.start`."""
        train = self.config.train
        if train.start is None:
            return None
        samples = (self.parts.space.checksums.get("vae"), self.identity.get("latents"))
        beginner = Beginner("mae", self.arguments, jax.eval_shape(self.empty).params, self.source.class_names, *samples)
        return start_of(train.start, train.start_classes, beginner)

    def initial_state(self) -> TrainState:
        """The state before the first step."""
        taken = None if self.start is None else self.layout.put(self.start.taken)
        placed = shardings(self.layout, jax.eval_shape(self.empty))
        state: TrainState = jax.jit(self.empty, out_shardings=placed)(taken)
        return state

    def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        """The next state and the metrics of one step, see `mae_step`. The state that is given is used up."""
        return self.compiled(state, batch, self.frozen, self.key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.feed.close()


def prepare_pretraining(config: PretrainConfig) -> Pretraining:
    """Puts a pre-training together, top to bottom; nothing is compiled yet.

    Raises:
        ConfigError: the settings cannot work, do not fit the data or the devices, or something named is not there.
    """
    check_settings(config)
    source = open_source(config.data)
    check_classes(config.train.start_classes, None, source.num_classes)
    space = source_space(config.data.vae, source, config.data.normalise_latents)
    config = named_vae(config, source)
    check_sizes(config, space.shape, source.num_classes)
    train, layout = config.train, mesh.layout(config.mesh.data, config.mesh.fsdp)
    check_layout(config, layout.devices, jax.process_count(), len(source))
    batch_size = min(train.batch_size, len(source))
    remedy = f"must divide the {counted(batch_size, 'sample')} of a batch, which are all there are"
    fits = train.micro_batch == 0 or batch_size % train.micro_batch == 0
    require(fits, "train.micro_batch", train.micro_batch, remedy)
    parts, arguments, empty_state = set_up_pretraining(config, space, source.num_classes, layout)
    placed = shardings(layout, jax.eval_shape(empty_state))
    return Pretraining(
        config=config,
        source=source,
        arguments=arguments,
        parts=parts,
        layout=layout,
        empty=empty_state,
        frozen=layout.put(space.params),
        key=jax.jit(jax.random.key, out_shardings=layout.replicated)(train.seed),
        compiled=jitted_pretraining(parts, placed, layout),
        feed=Pipeline(source, batch_size, train.seed, **reading(config.data, layout)),
        identity=data_facts(source) | {"weights": space.checksums} | normalised(config, space),
    )


def set_up_pretraining(
    config: PretrainConfig, space: SampleSpace, num_classes: int, layout: Layout | None = None
) -> tuple[MAEStepParts, dict[str, Any], Callable[..., TrainState]]:
    """What a pre-training step is compiled for, the autoencoder's arguments, and what makes the first state.

    Without a layout it is for one device.
    """
    arguments = networks.mae_arguments(config.mae, space.shape[2], num_classes)
    optimizer = optimizer_of(config.optimizer, config.train.steps)

    def autoencoder() -> nnx.Module:
        return networks.autoencoder(arguments, jax.random.key(config.train.seed))

    def empty_state(taken: dict[str, Array] | None = None) -> TrainState:
        params = begun(nnx.to_pure_dict(nnx.state(autoencoder())), taken)
        return make_state(params, optimizer, ema_decays=config.train.ema_decays)

    graphdef = nnx.graphdef(nnx.eval_shape(autoencoder))
    placement = ONE_DEVICE if layout is None or layout.devices == 1 else layout
    return MAEStepParts(mae_recipe_of(config), graphdef, space, optimizer, placement), arguments, empty_state


def jitted_pretraining(parts: MAEStepParts, placed: Any, layout: Layout) -> Any:
    """The step, which takes the place of its state; `placed` says where the state lies."""
    return jax.jit(partial(mae_step, parts), donate_argnums=0, out_shardings=(placed, layout.replicated))


def mae_recipe_of(config: PretrainConfig) -> MAERecipe:
    """The numbers of a pre-training step."""
    mae = config.mae
    return MAERecipe(
        token_size=mae.input_patch_size,
        patch_size=mae.patch_size,
        mask_ratio_min=mae.mask_ratio_min,
        mask_ratio_max=mae.mask_ratio_max,
        lambda_cls=mae.lambda_cls,
        cls_start=config.train.steps - mae.cls_steps,
        cls_ramp_steps=mae.cls_ramp_steps,
        micro_batch=config.train.micro_batch,
        no_op_steps=config.optimizer.no_op_steps,
    )
