"""How many floating-point operations a function takes: the products in its program, counted with their repetitions.

XLA's own cost analysis counts the body of a loop once, whatever its trip count, and a fused kernel not at all.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core


def flops(f: Callable, *args: Any) -> float:
    """Operations of matrix products and convolutions in `f(*args)`, over all devices; a multiplication and an addition
    are two. `args` may be ShapeDtypeStructs. Of a branch, the costlier side counts. Raises ValueError for a loop whose
    trip count is not known.
    """
    return _of_program(jax.make_jaxpr(f)(*args).jaxpr)


def _of_program(program: core.Jaxpr) -> float:
    return sum(_of(equation) for equation in program.eqns)


def _of(equation: core.JaxprEqn) -> float:
    name, settings = equation.primitive.name, equation.params
    if name == "dot_general":
        contracted = settings["dimension_numbers"][0][0]
        operand = _shape(equation.invars[0])
        return 2.0 * math.prod(_shape(equation.outvars[0])) * math.prod(operand[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = _shape(equation.invars[1])
        features = kernel[settings["dimension_numbers"].rhs_spec[0]]
        return 2.0 * math.prod(_shape(equation.outvars[0])) * math.prod(kernel) / features
    inner = [_of_program(program) for program in _inside(settings)]
    match name:
        case "scan":
            return settings["length"] * sum(inner)
        case "while":
            if sum(inner):
                raise ValueError(f"a loop of unknown length takes products: {equation.source_info.traceback}")
            return 0.0
        case "cond":
            return max(inner)
        case "shard_map":
            # Its name differs by JAX's version.
            axes = settings["newly_manual_axes" if "newly_manual_axes" in settings else "manual_axes"]
            return math.prod(settings["mesh"].shape[axis] for axis in axes) * sum(inner)
        case "pallas_call":
            return math.prod(settings["grid_mapping"].grid) * sum(inner)
    return sum(inner)


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _inside(settings: dict[str, Any]) -> Iterator[core.Jaxpr]:
    """The programs among an equation's settings."""
    for value in settings.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, core.ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, core.Jaxpr):
                yield one
