"""The mesh: how state, samples and data are spread over devices and processes.

Two axes. Batches are spread over both; parameters, their averages and the optimiser's state over `fsdp` (Zhao et al.
2023, "PyTorch FSDP"; Xu et al. 2021, "GSPMD"), by the rules below. Everything else follows: the step is plain
`jax.jit` and its reductions are over the global batch. What a step computes does not depend on the mesh, but for the
samples it draws where every device along `data` has banks of its own.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from numpy.typing import NDArray

from drifting.devices.backend import require_devices
from drifting.errors import ConfigError
from drifting.method.state import TrainState

BATCH_AXES = ("data", "fsdp")
"""The axes over which a batch is spread."""

# Which axis of an array is spread over `fsdp`, by the end of its path; the first rule that matches. None: no axis. Of
# other arrays it is the last, if they have several.
SHARDING_RULES: tuple[tuple[str, int | None], ...] = (
    (r"final/kernel$", -2),  # its outputs are few
    (r"(bias|gain|count|step|neighbour_scale)$", None),  # small, though those of all blocks are one array
)


@dataclass(frozen=True)
class Layout:
    """Says where every array lies. Made by `layout`.

    Attributes:
        mesh: the devices along the axes `data` and `fsdp`.
        banks_per_device: whether each device along `data` has sample banks of its own.
    """

    mesh: Mesh
    banks_per_device: bool = True

    @property
    def devices(self) -> int:
        """Devices of the mesh, over all processes: parts that a batch is cut into."""
        return int(self.mesh.size)

    @property
    def platform(self) -> str:
        """What the devices are: `cpu`, `gpu` or `tpu`."""
        platform: str = self.mesh.devices.flat[0].platform
        return "gpu" if platform in ("cuda", "rocm") else platform

    @property
    def replicas(self) -> int:
        """How many sets of banks there are."""
        return int(self.mesh.shape["data"]) if self.banks_per_device else 1

    @property
    def replicated(self) -> NamedSharding:
        """The whole array on every device."""
        return NamedSharding(self.mesh, P())

    @property
    def batch(self) -> NamedSharding:
        """The first axis spread over all devices."""
        return NamedSharding(self.mesh, P(BATCH_AXES))

    @property
    def banks(self) -> NamedSharding:
        """The first axis, that of the sets of banks, spread over `data` where there are several."""
        return NamedSharding(self.mesh, P("data") if self.replicas > 1 else P())

    def params(self, tree: Any) -> Any:
        """The sharding of every leaf of parameters, averages or optimiser state, by `SHARDING_RULES`."""
        return jax.tree_util.tree_map_with_path(self._param, tree)

    def _param(self, path: Any, leaf: Any) -> NamedSharding:
        name, size = jax.tree_util.keystr(path, simple=True, separator="/"), self.mesh.shape["fsdp"]
        axis = next(
            (axis for rule, axis in SHARDING_RULES if re.search(rule, name)), -1 if len(leaf.shape) > 1 else None
        )
        if axis is None or size == 1 or leaf.shape[axis] % size:
            return self.replicated
        spec: list[str | None] = [None] * len(leaf.shape)
        spec[axis] = "fsdp"
        return NamedSharding(self.mesh, P(*spec))

    def place(self, batch: Mapping[str, NDArray]) -> dict[str, Array]:
        """A batch on the devices, spread over its first axis; each process gives its own rows."""
        return {key: jax.make_array_from_process_local_data(self.batch, rows) for key, rows in batch.items()}

    def put(self, tree: Any) -> Any:
        """Arrays that every process has, whole on every device."""
        if jax.process_count() == 1:
            return jax.device_put(tree, self.replicated)

        def put(leaf: Any) -> Array:
            host = np.asarray(leaf)
            return jax.make_array_from_callback(host.shape, self.replicated, lambda index: host[index])

        return jax.tree.map(put, tree)

    def local(self, tree: Any) -> Any:
        """The whole of every array on this process's first device, for what each process does by itself."""
        if self.devices == 1:
            return tree
        # One function for all calls: a new one each time would be compiled each time.
        whole = jax.jit(_same, out_shardings=self.replicated)(tree)
        return jax.tree.map(lambda array: array.addressable_data(0), whole)

    def gather(self, tree: Any) -> Any:
        """Inside jit: the tree whole on every device: parameters, as the networks use them.

        What takes memory is the state, with averages and optimiser four times the parameters: that stays spread.
        Without being told, the compiler would spread activations as the parameters are, which moves far more.
        """
        if self.devices == 1:
            return tree
        return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, self.replicated), tree)

    def scatter(self, gradient: Any) -> Any:
        """Inside jit: a gradient, summed over the devices, spread as the parameters are."""
        if self.devices == 1:
            return gradient
        return jax.tree.map(jax.lax.with_sharding_constraint, gradient, self.params(gradient))

    def spread(self, tree: Any) -> Any:
        """Inside jit: the tree with the first axis of every leaf spread over all devices."""
        if self.devices == 1:
            return tree
        return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, self.batch), tree)

    def each(self, function: Any, params: Any, batch: Any) -> Any:
        """Inside jit: `function(params, batch) -> (outputs, total)` on every device's part of the batch by itself.

        Outputs are joined along their first axis, and totals are added up, once. See `Placement`.
        """
        if self.devices == 1:
            return function(params, batch)

        def local(params: Any, batch: Any) -> Any:
            outputs, total = function(params, batch)
            return outputs, jax.lax.psum(total, BATCH_AXES)

        parts = jax.shard_map(
            local, mesh=self.mesh, in_specs=(P(), P(BATCH_AXES)), out_specs=(P(BATCH_AXES), P()), check_vma=False
        )
        return parts(params, batch)

    def mean(self, x: Array) -> Array:
        """Inside `each`: the mean of what every device has."""
        return x if self.devices == 1 else jax.lax.pmean(x, BATCH_AXES)

    def take(self, records: Array, rows: Array, views: Array) -> Array:
        """Inside jit: `records[rows, views]` of records spread over their first axis, the result spread likewise.

        Each device looks up what it holds, and the parts are added up where they are wanted: what travels is what is
        drawn, not the data.
        """
        if self.devices == 1:
            return records[rows, views]

        def local(held: Array, rows: Array, views: Array) -> Array:
            place = jax.lax.axis_index(BATCH_AXES)
            mine = rows - place * held.shape[0]
            here = (mine >= 0) & (mine < held.shape[0])
            found = held[jnp.where(here, mine, 0), views]
            found = jnp.where(here.reshape(here.shape + (1,) * (found.ndim - here.ndim)), found, 0)
            return jax.lax.psum_scatter(found, BATCH_AXES, scatter_dimension=0, tiled=True)

        return jax.shard_map(local, mesh=self.mesh, in_specs=(P(BATCH_AXES), P(), P()), out_specs=P(BATCH_AXES))(
            records, rows, views
        )


def _same(tree: Any) -> Any:
    return tree


def layout(data: int = 0, fsdp: int = 1, banks_per_device: bool = True) -> Layout:
    """The layout over the devices of all processes; `data=0` takes what `fsdp` leaves.

    Raises:
        ConfigError: the axes do not make up the devices there are.
        MachineError: there are none.
    """
    require_devices()
    count = len(jax.devices())
    wanted, data = data, data or max(1, count // fsdp)
    if data * fsdp != count:
        there = f"{count} devices there are" if count > 1 else "1 device there is"
        if wanted == 0:
            raise ConfigError(f"mesh.fsdp={fsdp}: must divide the {there}")
        remedy = f"their product must be the {there}; mesh.data=0 takes what mesh.fsdp leaves"
        raise ConfigError(f"mesh.data={wanted}, mesh.fsdp={fsdp}: {remedy}")
    shape = (data, fsdp)
    # The devices are in the order of the processes, so that each one's rows of a batch are those of its own devices.
    devices = np.array(sorted(jax.devices(), key=lambda d: (d.process_index, d.id))).reshape(shape)
    return Layout(Mesh(devices, BATCH_AXES, axis_types=(AxisType.Auto,) * 2), banks_per_device)


def one_device() -> Layout:
    """The layout on the default device alone. Raises `MachineError` where there is none."""
    require_devices()
    return Layout(Mesh(np.array(jax.devices()[:1]).reshape(1, 1), BATCH_AXES, axis_types=(AxisType.Auto,) * 2))


def shardings(layout: Layout, state: TrainState) -> Any:
    """Where every leaf of a state, or of its shapes, lies: a `TrainState` with a `NamedSharding` in place of each."""
    everywhere: Any = layout.replicated
    return TrainState(
        step=everywhere,
        params=layout.params(state.params),
        opt_state=layout.params(state.opt_state),
        ema=layout.params(state.ema),
        banks=jax.tree.map(lambda _: layout.banks, state.banks),
        neighbour_scale=None if state.neighbour_scale is None else everywhere,
    )
