"""The checker of the annotations of `drifting.method`: the tests compare shapes and dtypes with them, traced or not."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from beartype import BeartypeConf, beartype

_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as for mypy


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its arguments and its value checked.

    JAX makes pytrees also of what stands for arrays: shapes, shardings, numbers of axes. So the fields of a pytree are
    only checked where it holds arrays.
    """
    checked = _beartype(function)
    if function.__name__ != "__init__":
        return checked

    @wraps(checked)
    def init(self: Any, *args: Any, **kwargs: Any) -> Any:
        import jax  # not before conftest has said which devices there are

        is_pytree = not jax.tree_util.all_leaves([self])
        if is_pytree and not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves((args, kwargs))):
            return None
        return checked(self, *args, **kwargs)

    return init
