"""What an error says, and whose it is."""

import pytest

from drifting.errors import ArgumentError, ConfigError, HubError, InputError, as_argument, require_argument


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
