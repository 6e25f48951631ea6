"""What an error says, and whose it is."""

import ast
import re
from collections.abc import Iterator

import pytest

from drifting.errors import ArgumentError, ConfigError, HubError, InputError, as_argument, counted, require_argument
from tests.support.runs import ROOT


def test_an_argument_error_says_argument_value_and_remedy():
    assert str(ArgumentError("alpha", -1.0, "use more")) == "alpha=-1.0: use more"
    assert str(ArgumentError("num", None, "give it")) == "num: give it"
    require_argument(True, "num", 1, "give it")
    with pytest.raises(ArgumentError, match=r"^num=1: give it$") as found:
        require_argument(False, "num", 1, "give it")
    assert (found.value.argument, found.value.value, found.value.remedy) == ("num", 1, "give it")


@pytest.mark.parametrize(
    "error",
    [
        InputError("a/b: is damaged"),
        InputError("is damaged"),
        ConfigError("data.vae='a/b': is damaged"),
        ArgumentError("workdir", "a/b", "is damaged"),
    ],
)
def test_what_an_argument_names_is_not_said_twice(error: Exception):
    with pytest.raises(ArgumentError, match=r"^weights=a/b: is damaged$") as found, as_argument("weights", "a/b"):
        raise error
    assert found.value.__cause__ is error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InputError("a/b/c: is damaged"), "weights=a/b: a/b/c: is damaged"),
        (ArgumentError("average", 0.5, "use another"), "weights=a/b: average=0.5: use another"),
    ],
)
def test_another_name_is_kept(error: Exception, message: str):
    with pytest.raises(ArgumentError) as found, as_argument("weights", "a/b"):
        raise error
    assert str(found.value) == message


def test_other_errors_pass():
    with pytest.raises(HubError), as_argument("weights", "a/b"):
        raise HubError("no connection")


def test_one_of_a_kind_is_singular():
    found = [counted(1, "class"), counted(2, "class"), counted(0, "batch"), counted(1400, "more image")]
    assert found == ["1 class", "2 classes", "0 batches", "1,400 more images"]


PLURALS = re.compile(
    r" ([a-z]+ )?(batches|cells|channels|classes|devices|files|folders|images|jobs|labels|lines|maps|parameters|parts|"
    r"problems|processes|resamples|rows|samples|shards|steps|tokens|values)\b"
)

SEVERAL = {
    "width", "what", "reference", "records.split",  # no numbers of things
    "devices", "processes", "shards", "count", "PNG_CHANNELS", "LEAST_IMAGES", "len(pickles)", "len(y)",  # two or more
}  # fmt: skip
"""Expressions of which the plural is always right."""


def written(number: ast.expr) -> bool:
    """Whether an expression gives a number that may go before any noun, or brings its own."""
    return ast.unparse(number) in SEVERAL or ast.unparse(number).startswith("counted(")


def plural_numbers(text: str) -> Iterator[str]:
    """Messages of a source that put a number before a plural noun, right or wrong."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.JoinedStr):
            for number, words in zip(node.values, node.values[1:], strict=False):
                counts = isinstance(number, ast.FormattedValue) and isinstance(words, ast.Constant)
                if counts and PLURALS.match(str(words.value)) and not written(number.value):
                    yield f"{{{ast.unparse(number.value)}}}{words.value}"
        elif isinstance(node, ast.Constant) and re.search(rf"%[ds]{PLURALS.pattern}", str(node.value)):
            yield str(node.value)


def test_no_message_says_1_files():
    """Numbers of things are written by `counted`. Annotations of `method` are no messages."""
    sources = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "drifting").rglob("*.py"))}
    texts = {path: text for path, text in sources.items() if path.parent.name not in ("method", "encoders")}
    assert len(texts) > 100
    assert [(path.name, words) for path, text in texts.items() for words in plural_numbers(text)] == []
    wrong = "f'{n} files'; f'{n:,} more files'; '%d images'; f'{x}x{width} samples'; f'{counted(n, noun)} rows'"
    assert sorted(plural_numbers(wrong)) == ["%d images", "{n} files", "{n} more files"]
