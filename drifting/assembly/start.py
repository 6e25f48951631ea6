"""Parameters that a training begins with in place of drawn ones: those of a run, an artifact or released weights.

What a network has learned is taken over as it is. Two kinds of tensors may have other sizes: those of the classes,
which are taken class by class or drawn anew, and tables of positions, which are resized. A network says itself which
they are, see `drifting.networks`.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax import Array

from drifting.assembly import networks
from drifting.config.paths import is_place
from drifting.config.schema import MAEConfig, ModelConfig, PretrainConfig, RunConfig, ema_decay
from drifting.errors import ArgumentError, ConfigError, as_setting, counted, require
from drifting.networks import NETWORKS
from drifting.networks.network import Params
from drifting.runs.checkpoints import Checkpoints, abstract
from drifting.runs.directory import CONFIG_FILE, ENCODER_FOLDER, read_config
from drifting.runs.files import exists
from drifting.runs.places import place
from drifting.weights.artifact import GENERATOR_KIND, Artifact, flatten, listed, other_vae, unflatten, vae_facts
from drifting.weights.load import described, load_weights

OTHER_WEIGHTS = "or start from other weights"

Grid = tuple[int, int]
"""Rows and columns of tokens."""


@dataclass(frozen=True)
class StartingPoint:
    """What a training begins with.

    Attributes:
        taken: the tensors that are taken over, float32, by their names; all others are drawn.
        facts: JSON-able, what they are: `from`, the reference, with its `commit`, `sha256`, `step` and `ema_decay`
            where these are known; `classes`, the class there of each class here, None where what depends on classes is
            drawn; `positions`, rows and columns of tokens there and here where they were resized, else None.
        told: a line for a person.
    """

    taken: dict[str, np.ndarray] = field(repr=False)
    facts: dict[str, Any]
    told: str


@dataclass(frozen=True)
class Beginner:
    """The network that is to begin with them.

    Attributes:
        network: the network's name in `NETWORKS`.
        arguments: what its constructor is called with.
        params: its parameters, as shapes.
        class_names: the classes of the data.
        vae_sha256: checksum of the VAE whose latents its samples are; None: they are images.
        latents: how those are scaled, see `drifting.networks.autoencoder.scale_of`; None: as that VAE says.
    """

    network: str
    arguments: Mapping[str, Any]
    params: Params = field(repr=False)
    class_names: Sequence[str] = field(repr=False)
    vae_sha256: str | None = None
    latents: Mapping[str, Any] | None = None

    @property
    def kind(self) -> Any:
        """The network's constructor."""
        return NETWORKS[self.network]

    @property
    def class_axes(self) -> dict[str, int]:
        """Its tensors with an axis of classes, and which it is; none where it is made without them."""
        axes: Mapping[str, int] = getattr(self.kind, "class_axes", {})
        return {name: axis for name, axis in axes.items() if name in flatten(self.params)}


def start_of(reference: str, chosen: Sequence[int], beginner: Beginner) -> StartingPoint:
    """What weights give to a network that begins with them.

    Args:
        reference: the setting `train.start`.
        chosen: the setting `train.start_classes`.
        beginner: the network.

    Raises:
        ConfigError: there are no such weights, or what they have learned does not fit the network.
        HubError: they cannot be downloaded.
    """
    source = _weights(reference, "mae" if beginner.network == "mae" else GENERATOR_KIND)
    there = flatten(source.params)
    wrong = ", ".join(_other_settings(source, beginner))
    remedy = f"{wrong}: what was learned with the one is of no use with the other, set them alike {OTHER_WEIGHTS}"
    require(not wrong, "train.start", reference, remedy)
    classes, grids = _classes(list(chosen), source, beginner), _grids(source, beginner)
    taken = {}
    for name, value in there.items():
        if name in getattr(beginner.kind, "class_axes", {}):
            if name in beginner.class_axes and classes is not None:
                taken[name] = np.take(value, classes, axis=beginner.class_axes[name])
        elif grids is not None and name in beginner.kind.position_tables:
            taken[name] = _resized(value, *grids)
        else:
            taken[name] = value
    taken = {name: np.asarray(value, np.float32) for name, value in taken.items()}
    wrong = ", ".join(_other_tensors(taken, beginner))
    require(not wrong, "train.start", reference, f"{wrong}: copy them again, {OTHER_WEIGHTS}")
    facts = {"from": reference, "classes": classes, "positions": grids} | {
        name: source.metadata.get(name) for name in ("commit", "sha256", "step", "ema_decay")
    }
    return StartingPoint(taken, facts, "; ".join(_told(facts, source, beginner)))


def check_start(train: RunConfig, network: str) -> None:
    """Checks what can be said of `train.start` and `train.start_classes` before a network is built, or tensors read.

    Args:
        train: the settings.
        network: the name in `NETWORKS` of the network that is to begin with the weights.

    Raises:
        ConfigError: there are no such weights, they are of another kind, or have no such classes.
        HubError: they cannot be downloaded.
    """
    if train.start is None:
        return
    kind = "mae" if network == "mae" else GENERATOR_KIND
    with _said_of_start(train.start):
        if kind == GENERATOR_KIND and _is_run(train.start):
            step = _last_step(train.start)
            count: Any = len(Checkpoints(place(train.start)).read_run(step)["identity"]["classes"])
        else:
            weights = _encoder_of(train.start) if _is_run(train.start) else train.start
            count = described(weights, kind).get("num_classes")
    if isinstance(count, int) and count:
        check_classes(train.start_classes, count, None)


def check_classes(chosen: Sequence[int], there: int | None, here: int | None) -> None:
    """Checks `train.start_classes` for so many classes there and here; None: it is not (yet) known how many.

    Raises:
        ConfigError: they are not as many as those here, or one is not there.
    """
    if not chosen:
        return
    of = "classes" if there is None else counted(there, "class")
    remedy = f"name one of the {of} of train.start for each " + (
        "class here" if here is None else f"of the {here} here"
    )
    require(here is None or len(chosen) == here, "train.start_classes", tuple(chosen), remedy)
    inside = there is None or max(chosen) < there
    known = "" if there is None else f"train.start has classes 0 to {there - 1}: "
    require(inside, "train.start_classes", tuple(chosen), f"{known}{remedy}")


def begun(params: Params, taken: Mapping[str, Array] | None) -> Params:
    """Parameters in which `taken`, tensors by their names, are in the place of those drawn."""
    return params if taken is None else unflatten(flatten(params) | dict(taken))


# --- what is named ----------------------------------------------------------------------------------------------------


def _weights(reference: str, kind: str) -> Artifact:
    """The weights that `train.start` names: of a run those of its average, of a pre-training its encoder's.

    Raises:
        ConfigError: there are none, or they are damaged or of another kind.
    """
    with _said_of_start(reference):
        if not _is_run(reference):
            return load_weights(reference, kind)
        return _of_run(reference) if kind == GENERATOR_KIND else load_weights(_encoder_of(reference), kind)


@contextmanager
def _said_of_start(reference: str) -> Iterator[None]:
    """What the block finds wrong with the weights is said of `train.start`."""
    with as_setting("train.start", reference):
        try:
            yield
        except ArgumentError as error:
            raise ConfigError(f"train.start={reference!r}: {error.remedy}") from error


def _is_run(reference: str) -> bool:
    return is_place(reference) and exists(place(reference) / CONFIG_FILE)


def _encoder_of(reference: str) -> str:
    """The encoder that a pre-training has written."""
    workdir = place(reference)
    read_config(workdir, PretrainConfig)
    if not exists(workdir / ENCODER_FOLDER):
        remedy = "has no encoder, which `drifting pretrain` writes when it ends: let it finish"
        raise ArgumentError("workdir", workdir, remedy)
    return str(workdir / ENCODER_FOLDER)


def _last_step(reference: str) -> int:
    """The step of a generator's run after which its latest intact checkpoint was saved."""
    workdir = place(reference)
    read_config(workdir)
    step = Checkpoints(workdir).latest_intact()
    if step is None:
        raise ArgumentError("workdir", workdir, "has no checkpoint yet: let it train first")
    return step


def _of_run(reference: str) -> Artifact:
    workdir, step = place(reference), _last_step(reference)
    config, checkpoints = read_config(workdir), Checkpoints(workdir)
    facts = checkpoints.read_run(step)["identity"]
    height, width, channels = facts["sample_shape"]
    described = (config.model, (height, width, channels), len(facts["classes"]))
    arguments, decay = networks.generator_arguments(*described), ema_decay(config)
    shapes = jax.eval_shape(networks.generator(*described, config.train.seed)[1])
    average = checkpoints.restore_part(step, "ema", {str(decay): abstract(shapes)})[str(decay)]
    stated = {"network": config.model.name, "step": step, "ema_decay": decay, "class_names": facts["classes"]}
    stated |= {"usage": {"latents": facts.get("latents")}}
    stated |= vae_facts(facts["weights"])
    return Artifact(GENERATOR_KIND, arguments, jax.device_get(average), stated)


# --- what fits --------------------------------------------------------------------------------------------------------


def _other_settings(source: Artifact, beginner: Beginner) -> Iterator[str]:
    """What differs in the networks and makes one that has learned something else: a clause for each."""
    if source.network != beginner.network:
        yield f"model.name is {source.network!r} there and {beginner.network!r} here"
        return
    section, settings = ("mae", MAEConfig) if beginner.network == "mae" else ("model", ModelConfig)
    keys = {setting.name for setting in dataclasses.fields(settings)}
    adaptable = getattr(beginner.kind, "adaptable", ())
    for name, value in beginner.arguments.items():
        other = source.model_config.get(name, value)
        if name in adaptable or _plain(other) == _plain(value):
            continue
        yield f"{f'{section}.{name}' if name in keys else name} is {other!r} there and {value!r} here"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _other_tensors(taken: Mapping[str, np.ndarray], beginner: Beginner) -> Iterator[str]:
    """What is wrong with tensors of a network of the same settings: they are damaged, or of an own network."""
    wanted = {name: leaf.shape for name, leaf in flatten(beginner.params).items()}
    if missing := sorted(set(wanted) - set(taken) - set(beginner.class_axes)):
        yield f"has no {listed(missing)}"
    if unknown := sorted(set(taken) - set(wanted)):
        yield f"has {listed(unknown)}, which the network here does not"
    for name, value in taken.items():
        if name in wanted and value.shape != wanted[name]:
            yield f"{name} is {_text(value.shape)} there and {_text(wanted[name])} here"
        elif not np.isfinite(value).all():
            yield f"{name} has numbers that are not finite"


def _classes(chosen: list[int], source: Artifact, beginner: Beginner) -> list[int] | None:
    """The class there of each class here; None: what depends on classes is drawn, or nothing does.

    Classes are the same ones where their names are; where one side has numbers in place of names, where there are
    equally many.
    """
    axes, there = beginner.class_axes, flatten(source.params)
    names = list(beginner.class_names)
    if not axes or not all(name in there for name in axes):
        remedy = f"no parameter {'there' if axes else 'here'} depends on a class: leave it ()"
        require(not chosen, "train.start_classes", tuple(chosen), remedy)
        return None
    name, axis = next(iter(axes.items()))
    count = there[name].shape[axis]
    if not chosen:
        named = source.metadata.get("class_names") or (source.metadata.get("usage") or {}).get("class_names")
        alike = _are_numbers(names) or named is None or _are_numbers(named) or list(named) == names
        return list(range(count)) if count == len(names) and alike else None
    check_classes(chosen, count, len(names))
    return chosen


def _are_numbers(names: Sequence[str]) -> bool:
    return list(names) == [str(number) for number in range(len(names))]


def _grids(source: Artifact, beginner: Beginner) -> tuple[Grid, Grid] | None:
    """Rows and columns of tokens there and here; None: they are the same, or the network has no table of positions."""
    if not getattr(beginner.kind, "position_tables", ()):
        return None
    there, here = (beginner.kind.token_grid(arguments) for arguments in (source.model_config, beginner.arguments))
    return None if there == here else (there, here)


def _resized(table: np.ndarray, there: Grid, here: Grid) -> np.ndarray:
    """A table of positions `[rows * columns, features]` for another grid that covers the same image, by cubic splines.

    It comes back as it is where it is not of the grid that it should be, which is then told.
    """
    if table.ndim != 2 or table.shape[0] != there[0] * there[1]:
        return table
    resized = jax.image.resize(table.reshape(*there, -1), (*here, table.shape[1]), "cubic")
    return np.asarray(resized).reshape(here[0] * here[1], -1)


def _told(facts: Mapping[str, Any], source: Artifact, beginner: Beginner) -> Iterator[str]:
    """What is taken from where, in a few clauses."""
    step = "" if facts["step"] is None else f", after {counted(facts['step'], 'step')}"
    yield f"start: the parameters of {facts['from']}{step}"
    axes, count = beginner.class_axes, len(beginner.class_names)
    if axes and facts["classes"] is None:
        yield f"{listed(list(axes))} drawn anew for the {counted(count, 'class')} here"
    elif axes and facts["classes"] != list(range(count)):
        yield f"{listed(list(axes))} of the classes {listed(list(map(str, facts['classes'])))}"
    elif axes:
        yield f"the same {counted(count, 'class')}"
    if facts["positions"] is not None:
        there, here = map(_text, facts["positions"])
        yield f"{listed(list(beginner.kind.position_tables))} resized from {there} to {here}"
    if other := other_vae(source.metadata.get("vae_sha256"), beginner.vae_sha256):
        yield f"the VAE here is another: {other}"
    usage = source.metadata.get("usage")
    scaled = usage.get("latents") if usage else beginner.latents
    if beginner.vae_sha256 is not None and scaled != beginner.latents:
        yield f"latents were scaled {_scaled(scaled)} there, and are {_scaled(beginner.latents)} here"


def _scaled(latents: Mapping[str, Any] | None) -> str:
    return "as their VAE says" if latents is None else "as they were measured"


def _text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "a number"
