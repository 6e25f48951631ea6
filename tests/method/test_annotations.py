"""The annotations of `drifting.method`: complete, and compared with shapes and dtypes wherever the tests call it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from drifting.method import bank
from drifting.method.bank import Bank, empty_bank
from drifting.method.fields import Affinities, displace
from drifting.method.kernels import KERNELS, pairwise_distance
from drifting.method.space import to_samples
from tests.test_structure import ROOT, python_files

X, Y = jnp.ones((4, 3)), jnp.ones((5, 2))


def test_a_wrong_shape_is_an_error_in_the_tests():
    with pytest.raises(TypeCheckError, match=r"parameter 'y'(.|\n)*dims=3"):
        pairwise_distance(X, Y)
    with pytest.raises(TypeCheckError, match=r"parameter 'y_pos'"):
        displace(Affinities(X, X), X, Y, Y)
    with pytest.raises(TypeCheckError, match="parameter 'width'"):
        KERNELS["laplace"].log_k(X, jnp.ones(4))


def test_a_wrong_dtype_is_an_error_in_the_tests():
    with pytest.raises(TypeCheckError, match=r"parameter 'x'(.|\n)*bf16\[4,3\]"):
        displace(Affinities(X, X), X.astype(jnp.bfloat16), Y, Y)


def test_what_a_function_sees_under_a_transformation_is_checked():
    jax.vmap(pairwise_distance)(X[None], X[None])
    with pytest.raises(TypeCheckError):
        jax.jit(pairwise_distance)(X[None], X[None])
    with pytest.raises(TypeCheckError):
        jax.vmap(pairwise_distance)(X, X)


def test_fields_of_a_dataclass_are_checked_where_they_are_arrays():
    empty = empty_bank(2, 3, (4,))
    with pytest.raises(TypeCheckError, match="parameter 'pushed'"):
        Bank(empty.words, empty.ids, jnp.zeros(5, jnp.int32), empty.record)
    shapes = jax.eval_shape(lambda: empty)
    assert isinstance(shapes, Bank) and jax.tree.map(lambda _: 0, empty) == Bank(0, 0, 0, empty.record)  # type: ignore[arg-type]
    several = jax.vmap(lambda i: Bank(empty.words, empty.ids, empty.pushed + i, empty.record))(jnp.arange(7))
    assert bank.fill(several).shape == (7, 2)


def test_the_check_is_of_the_trace_alone():
    """Neither what is compiled nor what a compiled call costs knows of it."""
    traced = []

    @jax.jit
    def function(x: jax.Array) -> jax.Array:
        traced.append(x.shape)
        return to_samples(x)

    for _ in range(3):
        function(X)
    assert traced == [X.shape]
    unchecked = jax.jit(to_samples.__wrapped__).lower(X).as_text()  # type: ignore[attr-defined]
    assert jax.jit(to_samples).lower(X).as_text() == unchecked


def test_users_have_no_checks():
    code = "import sys, drifting.method.step as s; assert not hasattr(s.train_step, '__wrapped__'); print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert "jaxtyping" in found.split() and "beartype" not in found.split()


# --- complete ---------------------------------------------------------------------------------------------------------


def annotations(tree: ast.AST) -> Iterator[ast.AST]:
    """Every annotation of arguments, values and fields."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            yield node.annotation
        if isinstance(node, ast.FunctionDef) and node.returns is not None:
            yield node.returns


def bare_arrays(node: ast.AST) -> Iterator[int]:
    """Lines of an annotation that say `Array` without the axes."""
    match node:
        case ast.Subscript(slice=ast.Tuple(elts=[_, ast.Constant()])):  # Float[Array, "axes"]
            return
    if isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node).endswith(("Array", "ArrayLike", "np.ndarray")):
        yield node.lineno
    for child in ast.iter_child_nodes(node):
        yield from bare_arrays(child)


def test_every_array_says_its_axes():
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in python_files("drifting/method")
        for annotation in annotations(ast.parse(path.read_text(encoding="utf-8")))
        for line in bare_arrays(annotation)
    ]
    assert not found


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("def f(x: Array) -> int: ...", True),
        ("def f() -> tuple[jax.Array, int]: ...", True),
        ("class A:\n    x: dict[str, Array] | None = None", True),
        ("def f(x: Float[Array | np.ndarray, 'n d'], n: int) -> tuple[Int[Array, ''], None]: ...", False),
    ],
)
def test_bare_arrays_are_found(text: str, bare: bool):
    assert any(list(bare_arrays(annotation)) for annotation in annotations(ast.parse(text))) == bare


def test_every_module_is_checked():
    import drifting.method.step  # noqa: F401

    loaded: dict[str, Any] = {n: m for n, m in sys.modules.items() if n.startswith("drifting.method.")}
    assert loaded and all(type(module.__spec__.loader).__name__ == "_JaxtypingLoader" for module in loaded.values())
