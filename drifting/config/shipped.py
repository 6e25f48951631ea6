"""The experiments that come with the package: the files of `configs/`, found by their names from any folder.

In a clone they lie in `configs/` beside the package; the wheel carries the same folder inside of it.
"""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent

CONFIGS = next((path for path in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if path.is_dir()), _PACKAGE)
"""The folder of the experiments."""

OTHER_NAMES = ("by its former name", "by a name of its own")
"""What the header of a file says that holds nothing of its own: it is a variant of another, which is listed."""


def experiment_file(name: str) -> Path | None:
    """The file that a name such as `digits`, `sweeps/kernel_width` or `configs/digits.py` stands for.

    A file of that path, from the working directory, comes before one of the package. None: there is neither.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    inside = name.removeprefix("./").removeprefix("configs/").removesuffix(".py")
    shipped = CONFIGS / f"{inside}.py"
    return shipped if inside and ".." not in shipped.parts and shipped.is_file() else None


def experiment_names() -> list[str]:
    """The names of all experiments of the package, those without a folder first."""
    files = sorted(CONFIGS.rglob("*.py"), key=lambda file: (file.parent != CONFIGS, file))
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    listed = [file for file, text in texts.items() if not any(said in text for said in OTHER_NAMES)]
    return [str(file.relative_to(CONFIGS).with_suffix("")) for file in listed if "__pycache__" not in file.parts]
