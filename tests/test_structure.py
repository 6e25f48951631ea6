"""The shape of the code base: imports point downward, numerics know no files, nothing global, nothing unpickled."""

import ast
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from absl import flags

from drifting.cli.commands import COMMANDS, program

ROOT = Path(__file__).resolve().parent.parent

# The floors from the ground. A room imports from itself and from rooms to its left; there are no cycles.
ROOMS = (
    "errors", "networks", "method", "config", "devices", "runs", "data", "weights", "assembly",
    "sampling", "scoring", "training", "studies", "experiments", "cli",
)  # fmt: skip
# Rooms that must not know all that lies to their left.
ONLY = {"networks": {"errors"}, "method": {"networks"}, "config": {"errors"}}
NEVER = {"sampling": {"data"}}
NUMERICAL = {
    "collections", "dataclasses", "drifting", "einops", "enum", "flax", "functools", "jax", "jaxtyping", "math",
    "numpy", "optax", "typing",
}  # fmt: skip
"""All packages that the method, the networks and the metrics may import: none of settings, files or loggers."""
FILE_READERS = {"load", "save", "savez", "savez_compressed", "savetxt", "loadtxt", "genfromtxt", "fromfile", "memmap"}
"""NumPy's functions that read and write files."""
COMPUTES_NOTHING = {
    "jax.jit", "jax.custom_jvp", "jax.custom_vjp", "jax.tree_util.register_dataclass", "numpy.dtype", "os.strerror",
    "jax.checkpoint_policies.save_only_these_names",
}  # fmt: skip
"""What of JAX, NumPy and the system is called as a module is imported; and the initialisers of flax."""
NAMES_ITS_MODULES = {"drifting.cli.settings", "drifting.runs.store_path"}
"""Modules that import others whose names come from outside: a file, or a library that may not be there."""
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}

LOCAL_GENERATORS = {"default_rng", "Generator", "SeedSequence", "PCG64", "Philox", "RandomState", "BitGenerator"}


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources() -> dict[str, str]:
    """Dotted name → text of every module of the package."""
    return {module_name(path): path.read_text(encoding="utf-8") for path in python_files("drifting")}


def packages() -> set[str]:
    return {module_name(path) for path in python_files("drifting") if path.name == "__init__.py"}


# --- what the tests look for, as functions of a source text -----------------------------------------------------------


def imports(module: str, text: str, is_package: bool = False) -> Iterator[str]:
    """Every dotted name that a source imports, wherever in it; `from a import b` counts as `a.b`.

    What is imported for the type checker alone is not imported when the module runs.
    """
    nodes = list(ast.walk(ast.parse(text)))
    for_types = [node for node in nodes if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    unused = {id(node) for block in for_types for part in block.body for node in ast.walk(part)}
    for node in (node for node in nodes if id(node) not in unused):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parents = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parents, base]).rstrip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and dotted(node.func).rpartition(".")[2] in IMPORTERS:
            yield imported_by(node)


IMPORTERS = {"import_module", "__import__", "resolve_name", "run_module", "run_path"}


def imported_by(call: ast.Call) -> str:
    """The name that a call imports, as far as it is written there; `?` where it is not."""
    given = call.args[0] if call.args else next((keyword.value for keyword in call.keywords), None)
    if isinstance(given, ast.JoinedStr):
        given = given.values[0] if given.values else None
    return given.value.rstrip(".") if isinstance(given, ast.Constant) and isinstance(given.value, str) else "?"


def room(module: str) -> str | None:
    """`drifting.models.dit` is in the room `models`; None for the package itself and for other packages."""
    parts = module.split(".")
    return parts[1] if parts[0] == "drifting" and len(parts) > 1 else None


def forbidden(here: str, target: str) -> bool:
    """Whether a module of one room may not import from another."""
    assert here in ROOMS, f"drifting.{here} is no room: give it a place in {Path(__file__).name}"
    if target == here:
        return False
    upward = ROOMS.index(target) > ROOMS.index(here)
    return upward or target in NEVER.get(here, ()) or target not in ONLY.get(here, ROOMS)


def wrong_imports(module: str, text: str) -> list[str]:
    """Imports that go up, or to a room which this one must not know."""
    found, names = [], set(imports(module, text, module in packages()))
    here = room(module)
    if here is None:  # the package root imports nothing of its own when it is imported
        return sorted(name for name in top_level_imports(text) if name.startswith("drifting"))
    for name in names:
        target = room(name)
        unnamed = name == "?" and module not in NAMES_ITS_MODULES
        if unnamed or name.split(".")[0] in ("tests", "scripts", "configs"):
            found.append(name)
        elif name == "drifting" or (name.startswith("drifting.") and target not in ROOMS):
            # The root hands on what lies in rooms above.
            found += [name] * (here != "cli" and name != "drifting.__version__")
        elif target in ROOMS and forbidden(here, str(target)):
            found.append(name)
    return sorted(f"{module} -> {name}" for name in found)


def top_level_imports(text: str) -> Iterator[str]:
    """What a source imports as it is imported, and not when one of its functions is called."""
    tree = ast.parse(text)
    tree.body = [node for node in tree.body if not isinstance(node, ast.FunctionDef)]
    yield from imports("drifting", ast.unparse(tree), is_package=True)


def impurities(module: str, text: str) -> list[str]:
    """What numerical modules must not have: packages beyond `NUMERICAL`; calls that read, write, print or run texts."""
    allowed = NUMERICAL | ({"sklearn"} if room(module) == "scoring" else set())
    found = [name for name in imports(module, text, module in packages()) if name.split(".")[0] not in allowed]
    for name in called(ast.parse(text)):
        package, _, function = name.rpartition(".")
        reads = (package.split(".")[0] == "numpy" or package == "jax.numpy") and function in FILE_READERS
        found += [name] * (reads or name in BUILT_IN_WORK or name in ("jax.debug.print", "jax.debug.callback"))
    return sorted(f"{module} -> {name}" for name in found)


BUILT_IN_WORK = {"open", "print", "exec", "eval", "input", "compile"}


def called(tree: ast.Module, at_import: bool = False) -> list[str]:
    """The dotted names that a source calls, their heads as imported (`np.load` is `numpy.load`).

    `at_import`: only what is called as the module is imported, decorators and defaults among it.
    """
    heads = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            heads |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            heads |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    found = []

    def visit(node: ast.AST) -> None:
        parts: list[ast.AST] = list(ast.iter_child_nodes(node))
        if at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            parts = [*node.decorator_list, *node.args.defaults, *(d for d in node.args.kw_defaults if d)]
        elif at_import and isinstance(node, ast.Lambda):
            parts = [*node.args.defaults]
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'"):
            parts = []
        elif isinstance(node, ast.Call) and (name := dotted(node.func)):
            head, dot, rest = name.partition(".")
            found.append(heads.get(head, head) + dot + rest)
        for part in parts:
            visit(part)

    visit(tree)
    return found


def work_at_import(text: str) -> list[str]:
    """What a module computes, reads or sets as it is imported, which every user of it waits for."""
    tree = ast.parse(text)
    found = []
    for name in called(tree, at_import=True):
        head = name.partition(".")[0]
        harmless = name in COMPUTES_NOTHING or name.startswith("flax.nnx.initializers.")
        works = head in ("jax", "numpy", "flax", "optax", "os", "subprocess", "shutil") and not harmless
        found += [name] * (works or name in BUILT_IN_WORK)
    for node in tree.body:
        for target in node.targets if isinstance(node, ast.Assign) else ():
            if isinstance(target, ast.Subscript | ast.Attribute):
                found.append(ast.unparse(target))
    return found


def is_numerical(module: str) -> bool:
    """The papers, the networks, and the formulas of the metrics."""
    return room(module) in ("networks", "method") or module.startswith("drifting.scoring.metrics.")


# A flag begins a text, or follows a blank, a quote or a bracket: a property of CSS follows `var(` or `style="`.
FLAG = re.compile(r"(?:^|(?<=[\s`'\[|=])|(?<=(?<!var)\())--(?:no)?([a-z]\w*)")


def known_flags() -> set[str]:
    """The flags of all commands."""
    known = {"config"}
    for command in COMMANDS.values():
        values = flags.FlagValues()
        command.define(values)
        known |= set(values)
    return known


def flags_in_strings(text: str, known: set[str]) -> list[str]:
    """Flags of the command line that the strings of a source name, but for its docstrings."""
    nodes = list(ast.walk(ast.parse(text)))
    docstrings = [node.value for node in nodes if isinstance(node, ast.Expr)]
    found = []
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
            found += [f"line {node.lineno}: --{name}" for name in FLAG.findall(node.value) if name in known]
    return found


def dotted(node: ast.AST) -> str:
    """`np.random.rand` for the expression that spells it, "" for anything else."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def global_state(text: str) -> list[str]:
    """Uses of NumPy's or Python's global generator, and of anything that unpickles."""
    found = []
    for name in imports("", text):
        head, _, tail = name.partition(".")
        if head in UNPICKLERS or head == "random":
            found.append(f"import {name}")
        if head == "numpy" and tail.startswith("random.") and tail.split(".")[1] not in LOCAL_GENERATORS:
            found.append(f"import {name}")
    for node in ast.walk(ast.parse(text)):
        match = re.fullmatch(r"(?:np|numpy)\.random\.(\w+)", dotted(node))
        if match and match[1] not in LOCAL_GENERATORS:
            found.append(dotted(node))
        if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
            unsafe = (node.arg, node.value.value) in {("allow_pickle", True), ("weights_only", False)}
            found += [f"{node.arg}={node.value.value}"] * unsafe
    return found


# Written so that this file does not match itself.
MACHINE = re.compile(
    r"(?<![\w.:/*$}-])/(?:work|farm|root|home/\w+|Users/\w+)/\w"  # a folder of one machine
    r"|/opt/(?:py)pi|file:///(?!\{)\w"
    r"|https?://(?!pypi\.org)[\w.-]*(?:pypi|devpi|artifactory|nexus)[\w.-]*"  # a package index of one place
    r"|index-url[ =]+(?!https://(?:pypi\.org|download\.pytorch\.org)/)\S"
    r"|https?://(?!127\.0\.0\.1|0\.0\.0\.0)(?:\d{1,3}\.){3}\d"
)


def committed_text_files() -> Iterator[tuple[Path, str]]:
    """Every text file that .gitignore does not name."""
    skipped = {line.strip().rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines()} | {".git"}
    for folder, folders, names in os.walk(ROOT):
        anchor = "/" if Path(folder) == ROOT else None  # `/runs` is the folder at the top alone
        folders[:] = [
            name
            for name in folders
            if name not in skipped and f"{anchor}{name}" not in skipped and not name.endswith(".egg-info")
        ]
        for name in names:
            if name in skipped:  # the .git of a work tree is a file
                continue
            path = Path(folder, name)
            try:
                yield path, path.read_text(encoding="utf-8")
            except (UnicodeDecodeError, OSError):
                continue


SHARED_NAMES = {
    "COMMANDS": "cli",  # the commands of a module
    "PRESETS": "networks",  # constructor arguments that have a name
    "draw": "studies",  # the figure of a study
    "run": "studies",  # what a study does
}
"""Names of one interface that several modules of a room have; anywhere else they would have a second meaning."""

VAGUE_NAMES = {
    "blocks", "common", "frozen", "helpers", "misc", "packing", "parts", "resident", "tools", "trained", "util",
    "utilities", "utils",
}  # fmt: skip
"""Module names that do not say what is inside: drawers, participles, and nouns that could each mean the others."""

LONGEST_FILE, LONGEST_FUNCTION = 400, 60


def long_functions(text: str) -> list[str]:
    """The functions of a source that have too many lines, docstrings and signatures counted."""
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    sizes = [(node.name, (node.end_lineno or 0) - node.lineno + 1) for node in functions]
    return [f"{name}: {size} lines" for name, size in sizes if size > LONGEST_FUNCTION]


def undocumented(text: str) -> list[str]:
    """Public functions, classes and methods of a source that have no docstring. `@overload` has none to have."""
    found = []

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            if not ast.get_docstring(node) and "overload" not in [
                dotted(mark).rpartition(".")[2] for mark in node.decorator_list
            ]:
                found.append(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                visit(node.body, f"{node.name}.")

    visit(ast.parse(text).body, "")
    return found


def defined_names(text: str) -> set[str]:
    """The public names that a source defines at its top, by `def`, `class` or an assignment."""
    names: set[str] = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def ambiguous_names(texts: dict[str, str]) -> list[str]:
    """Public names that are defined in several modules, but for those of one interface (`SHARED_NAMES`)."""
    homes: dict[str, list[str]] = {}
    for module, text in texts.items():
        for name in defined_names(text):
            homes.setdefault(name, []).append(module)
    found = []
    for name, modules in sorted(homes.items()):
        one_interface = {room(module) for module in modules} == {SHARED_NAMES.get(name)}
        if len(modules) > 1 and name != "logger" and not one_interface:
            found.append(f"{name}: {', '.join(sorted(modules))}")
    return found


def vague_modules(modules: Iterable[str]) -> list[str]:
    """Modules with a name out of `VAGUE_NAMES`."""
    return sorted(module for module in modules if VAGUE_NAMES & set(module.split(".")))


# --- the code base ----------------------------------------------------------------------------------------------------


def test_imports_point_downward():
    assert not [found for module, text in sources().items() for found in wrong_imports(module, text)]


def test_every_folder_and_module_of_the_package_is_a_room():
    assert {room(module) for module in sources()} - {None} == set(ROOMS)
    assert {path.parent.relative_to(ROOT / "drifting").parts[:1] for path in python_files("drifting")} <= {
        (name,)[: name != "errors"] for name in ROOMS
    }


@pytest.mark.parametrize("path", python_files("drifting"), ids=lambda p: str(p.relative_to(ROOT)))
def test_importing_a_module_computes_nothing(path):
    assert not work_at_import(path.read_text(encoding="utf-8"))


def test_importing_every_module_starts_no_device():
    """What a function does that is called at import is not seen in the text; JAX's devices are."""
    load = "".join(f"import {name}; " for name in sources() if not name.endswith("__main__"))
    code = f"{load}from jax._src import xla_bridge; print(xla_bridge.backends_are_initialized())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["False"]


def test_no_import_cycles():
    texts = sources()
    graph: dict[str, set[str]] = {}
    for module, text in texts.items():
        names = set(imports(module, text, module in packages()))
        graph[module] = {m for m in texts if m in names or m in {n.rpartition(".")[0] for n in names}} - {module}
    assert not find_cycle(graph)


def test_numerical_modules_know_no_config_mesh_file_or_logger():
    found = [found for module, text in sources().items() if is_numerical(module) for found in impurities(module, text)]
    assert not found


def test_a_library_speaks_of_its_arguments_and_not_of_flags():
    """A model card is the exception: it prints commands for a person."""
    known, skipped = known_flags(), ("drifting.cli", "drifting.weights.card")
    texts = {name: text for name, text in sources().items() if not any(f"{name}.".startswith(f"{s}.") for s in skipped)}
    assert len(texts) > 50
    assert not [f"{name}, {found}" for name, text in texts.items() for found in flags_in_strings(text, known)]


@pytest.mark.parametrize("path", python_files("drifting"), ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= LONGEST_FILE
    assert not long_functions(text)


@pytest.mark.parametrize("path", python_files("drifting"), ids=lambda p: str(p.relative_to(ROOT)))
def test_everything_public_is_documented(path):
    assert not undocumented(path.read_text(encoding="utf-8"))


def test_a_name_has_one_meaning_in_the_whole_package():
    assert not ambiguous_names(sources())


def test_module_names_say_what_is_inside():
    assert not vague_modules(sources())


LIGHT = (
    "drifting.experiments.grid", "drifting.experiments.report.data", "drifting.runs.directory", "drifting.runs.metrics",
    "drifting.scoring.results", "drifting.studies",
)  # fmt: skip
HEAVY = ("jax", "flax", "orbax", "grain", "sklearn", "huggingface_hub", "matplotlib")


@pytest.mark.parametrize("name", [*LIGHT, *(str(path.relative_to(ROOT)) for path in python_files("configs/sweeps"))])
def test_what_only_reads_runs_and_sweeps_loads_nothing_heavy(name: str):
    load = f"runpy.run_path({name!r})" if name.endswith(".py") else f"importlib.import_module({name!r})"
    code = f"import importlib, runpy, sys; {load}; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("path", python_files("drifting", "scripts"), ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_uses_a_global_generator_or_unpickles(path):
    assert not global_state(path.read_text(encoding="utf-8"))


def test_no_file_names_a_machine_or_a_package_index():
    seen, found = 0, []
    for path, text in committed_text_files():
        seen += 1
        for number, line in enumerate(text.splitlines(), start=1):
            found += [f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"] * bool(MACHINE.search(line))
    assert seen > 20 and not found


def test_no_file_holds_two_versions_of_a_line():
    """What a merge leaves to decide: the markers of both sides, at the beginning of a line."""
    marked = re.compile(r"^(<{7}|>{7}) \S", re.MULTILINE)
    assert marked.search("a\n" + "<" * 7 + " HEAD\n")
    assert not [str(path.relative_to(ROOT)) for path, text in committed_text_files() if marked.search(text)]


def test_constraints_are_exact_and_cover_the_dependencies():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)

    def canonical(name: str) -> str:
        return re.sub(r"[-_.]+", "-", re.split(r"[\[=<>~! ]", name)[0]).lower()

    pinned = {canonical(line) for line in lines}
    wanted = {canonical(name) for name in project["dependencies"] + project["optional-dependencies"]["dev"]}
    assert wanted <= pinned


def test_the_installed_command_is_there():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert {name: pkgutil.resolve_name(where) for name, where in scripts.items()} == {"drifting": program}


# --- and that the tests above can fail --------------------------------------------------------------------------------


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """Some cycle of a graph, [] without one."""
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str]:
        if node in path:
            return path[path.index(node) :]
        if node not in done:
            for target in sorted(graph[node]):
                if cycle := walk(target, [*path, node]):
                    return cycle
            done.add(node)
        return []

    return next((cycle for node in sorted(graph) if (cycle := walk(node, []))), [])


def test_cycles_are_found():
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]


@pytest.mark.parametrize(
    "module,text,wrong",
    [
        ("drifting.method.kernels", "import drifting.cli", True),
        ("drifting.method.fields", "from drifting.method import kernels", False),
        ("drifting.method.fields", "from drifting import training", True),
        ("drifting.method.fields", "def f():\n    from ..devices.mesh import Layout", True),
        ("drifting.method.step", "from drifting.errors import ConfigError", True),
        ("drifting.networks.dit", "from ..training import generator", True),
        ("drifting.networks.dit", "from .layers import Block", False),
        ("drifting.config.checks", "from drifting.method.kernels import KERNELS", True),
        ("drifting.data.batches", "from drifting.weights import load", True),
        ("drifting.sampling.sampler", "from drifting.data.source import Source", True),
        ("drifting.cli.training", "from drifting.training.generator import train\nimport numpy", False),
        ("drifting.method.fields", "import drifting\ndrifting.Config", True),
        ("drifting.networks.dit", "from drifting import Config", True),
        ("drifting.data.batches", "from .. import prepare", True),
        ("drifting.data.batches", "from ..elsewhere import x", True),
        ("drifting.data.batches", "from drifting.elsewhere.x import y", True),
        ("drifting.sampling.files", "from drifting import __version__", False),
        ("drifting.cli.commands", "import drifting", False),
        ("drifting.method.fields", "import importlib\nimportlib.import_module('drifting.config')", True),
        ("drifting.method.fields", "from importlib import import_module\nimport_module(f'drifting.cli.{x}')", True),
        ("drifting.method.fields", "__import__('drifting.training')", True),
        ("drifting.method.fields", "__import__(name)", True),
        ("drifting.data.batches", "import pkgutil\npkgutil.resolve_name('drifting.cli:main')", True),
        ("drifting.studies.study", "import importlib\nimportlib.import_module(f'drifting.studies.{x}')", False),
        ("drifting.data.batches", "import tests.support.runs", True),
        ("drifting.experiments.grid", "from scripts import chip_report", True),
        ("drifting.cli.settings", "from configs.digits import get_config", True),
        ("drifting", "def __getattr__(name):\n    return importlib.import_module(f'drifting.{name}')", False),
        ("drifting", "importlib.import_module('drifting.method')", True),
        ("drifting", "from drifting.method.bank import Bank", True),
        ("drifting", "if TYPE_CHECKING:\n    from drifting.method.bank import Bank", False),
        ("drifting", "if TYPE_CHECKING:\n    pass\nelse:\n    from drifting.method.bank import Bank", True),
    ],
)
def test_wrong_imports_are_found(module, text, wrong):
    assert bool(wrong_imports(module, text)) == wrong


@pytest.mark.parametrize(
    "text,found",
    [
        ('raise ValueError("--workdir: give one")', True),
        ('raise ValueError(f"--workdir={x}: is a file")', True),
        ('remedy = "choose another --workdir"', True),
        ('remedy = f"run `drifting sample --{name}` or (--weights=X)"', True),
        ('require(False, "--out", out, "is there")', True),
        ('def f():\n    """`--workdir` gives it."""', False),
        ('plot(x, "--", label="a -- b")', False),
        ('page = \'<td style="--out: 3%">\' + "a {color: var(--out)}"', False),
        ('text = "`tfds convert_format --out_file_format=x`, pre--out, --other"', False),
    ],
)
def test_flags_are_found(text, found):
    assert bool(flags_in_strings(text, {"workdir", "out", "weights"})) == found


@pytest.mark.parametrize(
    "text,impure",
    [
        ("import logging", True),
        ("from absl import logging", True),
        ("from drifting.method import kernels\nimport jax", False),
        ("import sys", True),
        ("import requests", True),
        ("from importlib import import_module", True),
        ("import functools, math\nfrom typing import Any", False),
        ("def f(x):\n    print(x)", True),
        ("def f(x):\n    with open(x) as file: ...", True),
        ("import numpy as n\ndef f(x):\n    return n.load(x)", True),
        ("from numpy import fromfile as read\ndef f(x):\n    return read(x)", True),
        ("import jax\ndef f(x):\n    jax.debug.print('{}', x)", True),
        ("import numpy as np\ndef f(x):\n    return np.exp(x)", False),
    ],
)
def test_impurities_are_found(text, impure):
    assert bool(impurities("drifting.method.loss", text)) == impure


@pytest.mark.parametrize(
    "text,found",
    [
        ("import jax.numpy as jnp\nX = jnp.zeros(3)", True),
        ("import jax\njax.config.update('jax_enable_x64', True)", True),
        ("import numpy as np\nclass A:\n    rng = np.random.default_rng()", True),
        ("from numpy import arange as a\nX = {'a': a(3)}", True),
        ("import numpy as np\ndef f(x=np.zeros(3)): ...", True),
        ("import os\nos.environ['X'] = '1'", True),
        ("import os\nif True:\n    os.makedirs('x')", True),
        ("print('hello')", True),
        ("import jax\nfrom functools import partial\n@partial(jax.jit, static_argnames='n')\ndef f(n): ...", False),
        ("import jax\nf = jax.jit(lambda x: jax.numpy.exp(x))", False),
        (
            "import jax.numpy as jnp\ndef f():\n    return jnp.zeros(3)\nif __name__ == '__main__':\n    print(f())",
            False,
        ),
    ],
)
def test_work_at_import_is_found(text, found):
    assert bool(work_at_import(text)) == found


@pytest.mark.parametrize(
    "text,found",
    [
        ("import numpy as np\nnp.random.seed(0)", True),
        ("import numpy as np\nf = np.random.permutation", True),
        ("from numpy.random import rand", True),
        ("import random", True),
        ("import pickle", True),
        ("np.load(path, allow_pickle=True)", True),
        ("torch.load(path, weights_only=False)", True),
        ("rng = np.random.default_rng(0)\nnp.random.RandomState(2020)\nnp.load(path, allow_pickle=False)", False),
        ("import jax\njax.random.normal(key)\nfrom jax import random", False),
    ],
)
def test_global_state_is_found(text, found):
    assert bool(global_state(text)) == found


@pytest.mark.parametrize(
    "line,found",
    [
        ("root = '/" + "work/data'", True),
        ("see /home/" + "someone/code", True),
        ("--index" + "-url https://mirror.example/simple", True),
        ("https://" + "pypi.example.com/simple", True),
        ("https://pypi.org/simple", False),
        ("see docs/work/plan.md, ~/data, /tmp/x, gs://bucket/root/x and ${HOME}/root/x", False),
    ],
)
def test_machine_names_are_found(line, found):
    assert bool(MACHINE.search(line)) == found


@pytest.mark.parametrize(
    "text,found",
    [
        ("def f():\n" + "    pass\n" * LONGEST_FUNCTION, ["f: 61 lines"]),
        ("class A:\n    def f(self):\n" + "        pass\n" * LONGEST_FUNCTION, ["f: 61 lines"]),
        ("def f():\n" + "    pass\n" * LONGEST_FUNCTION + "class A:\n    def f(self): ...\n", ["f: 61 lines"]),
        ("def f():\n" + "    pass\n" * (LONGEST_FUNCTION - 1), []),
    ],
)
def test_long_functions_are_found(text, found):
    assert long_functions(text) == found


@pytest.mark.parametrize(
    "text,found",
    [
        ("def f(): pass\nclass A: pass", ["f", "A"]),
        ("class A:\n    '''A.'''\n    def f(self): pass\n    def _g(self): pass\n    def __h__(self): pass", ["A.f"]),
        ("def f():\n    '''F.'''\n    def g(): pass\ndef _h(): pass\nclass _B:\n    def f(self): pass", []),
        ("@overload\ndef f(): ...\n@typing.overload\ndef f(): ...\ndef f():\n    '''F.'''", []),
    ],
)
def test_what_is_undocumented_is_found(text, found):
    assert undocumented(text) == found


def test_ambiguous_names_are_found():
    texts = {
        "drifting.studies.a": "def run(): ...\ndef _f(): ...\nX, (Y, Z) = 1, (2, 3)\nfrom x import W",
        "drifting.studies.b": "def run(): ...\ndef _f(): ...\nY: int = 2\ndef f():\n    X = 1\nW = 1",
        "drifting.cli.c": "class COMMANDS: ...\nlogger = 1",
        "drifting.data.d": "logger = 1\nCOMMANDS = 1",
    }
    assert ambiguous_names(texts) == [
        "COMMANDS: drifting.cli.c, drifting.data.d",
        "Y: drifting.studies.a, drifting.studies.b",
    ]


def test_vague_modules_are_found():
    modules = [
        "drifting.data.utils",
        "drifting.packing.bank",
        "drifting.devices.block_function",
        "drifting.data.utilities.x",
        "drifting.runs.tools",
        "drifting.data.source",
    ]
    assert vague_modules(modules) == [
        "drifting.data.utilities.x",
        "drifting.data.utils",
        "drifting.packing.bank",
        "drifting.runs.tools",
    ]
