"""What a compiled module does in one step, counted from its text: launches, bytes, collectives, loops.

The text is that of the compiler for GPU or TPU (`compiled.as_text()`), after all its passes. Loops count as often as
they run. A launch is an operation at the top level that is no tuple, no view and no collective. The bytes an operation
moves are those of its operands, of slices the slice alone, and of its results; no cache is taken into account, so that
they are an upper estimate.
"""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

ELEMENT_BYTES = {"pred": 1, "s4": 1, "u4": 1, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1} | {
    f"{kind}{bits}": bits // 8 for kind in ("s", "u", "f", "bf", "c") for bits in (16, 32, 64, 128)
}

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")

NO_LAUNCH = (
    *("parameter", "constant", "iota", "tuple", "get-tuple-element", "bitcast", "partition-id", "replica-id"),
    *("while", "call", "conditional", "async-start", "async-update", "after-all", "opt-barrier"),
)


SLICING = ("dynamic-slice", "slice", "gather")

BY_ELEMENT = (
    *("abs", "add", "and", "bitcast", "compare", "convert", "divide", "exponential", "log", "maximum", "minimum"),
    *("multiply", "negate", "not", "or", "power", "reshape", "rsqrt", "select", "sqrt", "subtract", "tanh"),
    "transpose",
)
"""Within a fused operation these are computed at the places that are used of their results, and of others nothing is
read."""

PARTS = ("vae", "generator", "encoder", "loss", "bank")
"""Names of `jax.named_scope` in the training step, the innermost meaning first where they are nested."""

_SHAPE = re.compile(r"\b([a-z]+\d+[a-z0-9]*|pred)\[([\d,]*)\]")

_OPERATION = re.compile(r"^\s+(ROOT )?%?(\S+) = ((?:\((?:[^()]|\([^()]*\))*\)|\S+)) ([\w\-]+)\((.*)$")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{\s*$")


def shape_bytes(text: str) -> int:
    """Bytes of all arrays that a type names, such as `(f32[2,3]{1,0}, u8[4])`."""
    return sum(ELEMENT_BYTES.get(kind, 4) * _elements(sizes) for kind, sizes in _SHAPE.findall(text))


def shape_elements(text: str) -> int:
    """How many numbers the arrays have that a type names."""
    return sum(_elements(sizes) for _, sizes in _SHAPE.findall(text))


def _elements(sizes: str) -> int:
    return math.prod(int(size) for size in sizes.split(",") if size)


@dataclass(frozen=True)
class Operation:
    """One line of a module.

    Attributes:
        name: its name.
        type: what it makes.
        opcode: what it does.
        operands: names of what it takes.
        attributes: the rest of the line.
        is_root: whether it is what its computation returns.
    """

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    def called(self, *keys: str) -> list[str]:
        """The computations that attributes such as `body` or `calls` name."""
        found = (re.search(rf"\b{key}=%?([\w.\-]+)", self.attributes) for key in keys)
        return [match[1] for match in found if match]

    @cached_property
    def base(self) -> str:
        """The opcode without `-start`."""
        return self.opcode.removesuffix("-start")

    @cached_property
    def trips(self) -> int:
        """How often a loop runs, as far as the compiler knows; 1 otherwise."""
        match = re.search(r'known_trip_count":\{"n":"(\d+)"', self.attributes)
        return int(match[1]) if match else 1

    @cached_property
    def part(self) -> str:
        """The part of the step that it belongs to, by the scopes in its metadata: of `PARTS`, or `rest`."""
        match = re.search(r'op_name="([^"]*)"', self.attributes)
        scopes = set(re.findall(r"[a-z]+", match[1])) if match else set()
        return next((part for part in PARTS if part in scopes), "rest")


Computations = dict[str, dict[str, Operation]]
"""Operations by name, of each computation by name."""


def parse_module(text: str) -> tuple[Computations, str]:
    """The computations of a module, and the name of the one that is its entry."""
    computations: Computations = {}
    entry, current = "", None
    for line in text.splitlines():
        if not line.startswith(" "):
            head = _COMPUTATION.match(line)
            current = computations.setdefault(head[2], {}) if head else None
            entry = head[2] if head and head[1] else entry
            continue
        match = _OPERATION.match(re.sub(r"/\*index=\d+\*/", "", line)) if current is not None else None
        if match is None or current is None:
            continue
        root, name, made, opcode, rest = match.groups()
        depth, end = 1, 0
        for end, character in enumerate(rest):  # noqa: B007
            depth += (character == "(") - (character == ")")
            if not depth:
                break
        operands = tuple(re.findall(r"%([\w.\-]+)", rest[:end]))
        current[name] = Operation(name, made, opcode, operands, rest, bool(root))
    return computations, entry


@dataclass
class ModuleCounts:
    """What a device does in one step.

    Attributes:
        launches: kernels launched, by part.
        moved: bytes read and written, by part.
        collectives: how many there are, by kind, and their bytes.
        loops: how many loops there are, by how often one runs.
        opcodes: operations by opcode, those within fused ones too.
        static: the same, loops counted once.
        products: operations of matrix products by their precision: those that the compiler gives to cuBLAS, and those
            that it makes itself.
    """

    launches: Counter[str] = field(default_factory=Counter)
    moved: Counter[str] = field(default_factory=Counter)
    collectives: Counter[str] = field(default_factory=Counter)
    collective_bytes: Counter[str] = field(default_factory=Counter)
    loops: Counter[int] = field(default_factory=Counter)
    opcodes: Counter[str] = field(default_factory=Counter)
    static: Counter[str] = field(default_factory=Counter)
    products: Counter[str] = field(default_factory=Counter)


def count_module(text: str) -> ModuleCounts:
    """Counts what a compiled module does in one step."""
    computations, entry = parse_module(text)
    counts = ModuleCounts()
    for name, times in _runs(computations, entry, counts.loops).items():
        for operation in computations[name].values():
            _count(counts, computations, name, operation, times)
    return counts


def _runs(computations: Computations, entry: str, loops: Counter[int]) -> Counter[str]:
    """How often each computation runs at the top level, in calls, branches and bodies of loops.

    Of a condition that is the branch where it is false: what is wanted on some steps only, such as those that are
    logged, is not counted.
    """
    runs: Counter[str] = Counter()
    waiting = [(entry, 1)]
    while waiting:
        name, times = waiting.pop()
        runs[name] += times
        for operation in computations[name].values():
            inner: list[tuple[str, int]] = []
            if operation.opcode == "while":
                loops[operation.trips] += 1
                inner = [(body, times * operation.trips) for body in operation.called("body")]
            elif operation.opcode in ("call", "async-start"):
                inner = [(called, times) for called in operation.called("to_apply", "calls")[:1]]
            elif operation.opcode == "conditional":
                branches = re.search(r"branch_computations=\{([^}]*)\}", operation.attributes)
                names = re.findall(r"[\w.\-]+", branches[1]) if branches else operation.called("false_computation")
                inner = [(branch, times) for branch in names[:1]]
            waiting += [(called, n) for called, n in inner if called in computations]
    return runs


def _count(counts: ModuleCounts, computations: Computations, name: str, operation: Operation, times: int) -> None:
    if operation.base in COLLECTIVES:
        counts.collectives[operation.base] += times
        counts.collective_bytes[operation.base] += times * _collective_bytes(operation)
        counts.static[operation.base] += 1
        return
    if operation.opcode in NO_LAUNCH or operation.opcode.endswith(("-done", "-update")):
        return
    counts.launches[operation.part] += times
    moved = _read(computations, name, operation) + _written(computations, operation)
    counts.moved[operation.part] += times * moved
    for table, inner in _inside(computations, computations[name], operation):
        opcode = _opcode(inner)
        counts.opcodes[opcode] += times
        counts.static[opcode] += 1
        if (product := _product(table, inner)) is not None:
            counts.products[product[0]] += times * product[1]


def _inside(
    computations: Computations, table: dict[str, Operation], operation: Operation
) -> Iterator[tuple[dict[str, Operation], Operation]]:
    """An operation, or those within a fused one, each with the computation that it stands in."""
    if operation.opcode != "fusion":
        yield table, operation
        return
    for called in operation.called("calls"):
        fused = computations.get(called, {})
        for inner in fused.values():
            yield from _inside(computations, fused, inner)


def _opcode(operation: Operation) -> str:
    """What an operation does; of a call into a library, the name of what is called."""
    target = re.search(r'custom_call_target="([^"]+)"', operation.attributes)
    return target[1] if operation.opcode == "custom-call" and target else operation.opcode


def _collective_bytes(operation: Operation) -> int:
    """Bytes of what it makes; a started one names operands and results, of which the larger count."""
    if operation.opcode.endswith("-start") and operation.base != "all-reduce":
        pair = re.match(r"\(\((.*?)\), \((.*?)\)", operation.type)
        if pair:
            return max(shape_bytes(pair[1]), shape_bytes(pair[2]))
        return max((shape_bytes(f"{kind}[{sizes}]") for kind, sizes in _SHAPE.findall(operation.type)), default=0)
    return shape_bytes(operation.type)


def _read(computations: Computations, name: str, operation: Operation) -> int:
    """Bytes that an operation reads; where slices of an operand are all that is used, the slices."""
    table = computations[name]
    sizes = [shape_bytes(table[operand].type) if operand in table else 0 for operand in operation.operands]
    if operation.opcode in SLICING and sizes:
        return sum(sizes[1:]) + min(sizes[0], shape_bytes(operation.type))
    fused = next((computations[c] for c in operation.called("calls") if c in computations), None)
    if operation.opcode != "fusion" or fused is None:
        return sum(sizes)
    users = defaultdict(list)
    for inner in fused.values():
        for operand in inner.operands:
            users[operand].append(inner)
    shares: dict[str, float] = {}
    for inner in reversed(fused.values()):
        shares[inner.name] = _used(inner, users[inner.name], shares)
    parameters = {int(inner.attributes.split(")")[0]): inner for inner in fused.values() if inner.opcode == "parameter"}
    return sum(round(size * shares[parameters[i].name]) for i, size in enumerate(sizes) if i in parameters)


def _used(operation: Operation, users: list[Operation], shares: dict[str, float]) -> float:
    """The share of an operation's elements that is used in its fused computation; `shares` has that of its users."""
    used = 0.0 if users else 1.0
    for user in users:
        if user.opcode in SLICING and user.operands[0] == operation.name:
            used += shares[user.name] * shape_elements(user.type) / max(1, shape_elements(operation.type))
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == operation.name:
            continue
        else:
            used += shares[user.name] if user.opcode in BY_ELEMENT else 1.0
    return min(used, 1.0)


def _written(computations: Computations, operation: Operation) -> int:
    """Bytes that an operation writes; of an array that is updated in place, the update."""
    fused = next((computations[c] for c in operation.called("calls") if c in computations), None)
    if operation.opcode == "dynamic-update-slice":
        return 0
    if operation.opcode != "fusion" or fused is None:
        return shape_bytes(operation.type)
    root = next(inner for inner in fused.values() if inner.is_root)
    outputs = [fused[name] for name in root.operands] if root.opcode == "tuple" else [root]
    return sum(_output_bytes(fused, output) for output in outputs)


def _output_bytes(fused: dict[str, Operation], output: Operation) -> int:
    while output.opcode == "bitcast" and output.operands and output.operands[0] in fused:
        output = fused[output.operands[0]]
    if output.opcode == "dynamic-update-slice" and output.operands[1] in fused:
        return shape_bytes(fused[output.operands[1]].type)
    return shape_bytes(output.type)


def _product(table: dict[str, Operation], operation: Operation) -> tuple[str, int] | None:
    """The precision of a matrix product and its operations; None of other operations."""
    if operation.opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", operation.attributes)
        precision = re.search(r"operand_precision=\{(\w+)", operation.attributes)
    elif operation.opcode == "custom-call" and '"__cublas' in operation.attributes:
        settings = re.search(r'"dot_dimension_numbers":(\{[^}]*\})', operation.attributes)
        numbers = json.loads(settings[1])["lhs_contracting_dimensions"] if settings else []
        contracted = re.match(r"(.*)", ",".join(map(str, numbers)))
        precision = re.search(r'"operand_precision":\["(\w+)"', operation.attributes)
    else:
        return None
    kind, left = _SHAPE.findall(table[operation.operands[0]].type)[0]
    _, out = _SHAPE.findall(operation.type)[0]
    sides = [int(size) for size in left.split(",")]
    depth = math.prod(sides[int(axis)] for axis in (contracted[1] if contracted else "").split(",") if axis)
    return f"{kind}, {precision[1].lower() if precision else 'default'}", 2 * _elements(out) * depth
