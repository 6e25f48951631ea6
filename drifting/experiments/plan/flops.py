"""Floating-point operations of a function, counted from its trace: nothing is compiled, nothing runs.

Matrix products and convolutions count, two operations for a multiplication with its addition; what is elementwise does
not. Loops count as often as they run. (The compiler's own `cost_analysis` counts the body of a loop once.)
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np


def flops(function: Callable[..., Any], *arguments: Any) -> float:
    """Operations of `function(*arguments)`; the arguments may be shapes (`jax.ShapeDtypeStruct`)."""
    return _of(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            total += _product(equation)
        elif name == "conv_general_dilated":
            total += _convolution(equation)
        elif name == "cond":
            total += max(_of(branch.jaxpr) for branch in equation.params["branches"])
        else:  # a loop whose length is not known counts once
            runs = equation.params["length"] if name == "scan" else 1
            total += runs * sum(_of(inner) for inner in _inside(equation.params))
    return total


def products(jaxpr: Any) -> Iterator[Any]:
    """Products with weights and convolutions of a trace, those within its calls and loops among them."""
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "conv_general_dilated" or (name == "dot_general" and not any(params["dimension_numbers"][1])):
            yield equation
        for inner in _inside(params):
            yield from products(inner)


def _inside(params: dict[str, Any]) -> Iterator[Any]:
    """The traces that an operation such as a call or a loop holds."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(item, "jaxpr", item)
            if hasattr(inner, "eqns"):
                yield inner


def _product(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)


def _convolution(equation: Any) -> float:
    """Each output element sums over the kernel's inputs and those of its taps that lie on the input, not on padding."""
    params = equation.params
    numbers, out = params["dimension_numbers"], equation.outvars[0].aval.shape
    left, right = (v.aval.shape for v in equation.invars)
    total = 2.0 * out[numbers.out_spec[0]] * out[numbers.out_spec[1]] * right[numbers.rhs_spec[1]]
    for axis, (stride, (before, _), spread, dilation) in enumerate(
        zip(params["window_strides"], params["padding"], params["lhs_dilation"], params["rhs_dilation"], strict=True)
    ):
        size, kernel, positions = (
            shape[spec[2 + axis]]
            for shape, spec in ((left, numbers.lhs_spec), (right, numbers.rhs_spec), (out, numbers.out_spec))
        )
        at = np.arange(positions)[:, None] * stride + np.arange(kernel) * dilation - before
        total *= np.sum((at >= 0) & (at <= (size - 1) * spread) & (at % spread == 0))
    return float(total)
