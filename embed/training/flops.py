"""How many floating-point operations a function takes: the products in its program, counted with their repetitions;
and what the chips can do at best.

XLA's own cost analysis counts the body of a loop once, whatever its trip count, and a fused kernel not at all.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core

from embed.batch import Inputs, Pairs
from embed.model.build import EncoderModule
from embed.model.encoder import encode_pairs


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peaks of one device."""

    flops: float  # bfloat16 operations a second
    bandwidth: float  # bytes a second of its main memory
    wire: float  # bytes a second to the other chips of its slice, over all links
    memory: float  # bytes that a program may use


# By JAX's `device_kind`. TPUs: Google Cloud's pages on each, memory as the compiler reports it; GPUs: NVIDIA's data
# sheets, without sparsity.
CHIPS = {
    "TPU v5 lite": Chip(197e12, 819e9, 200e9, 15.75 * 2**30),
    "TPU v5": Chip(459e12, 2765e9, 600e9, 95.74 * 2**30),
    "TPU v6 lite": Chip(918e12, 1640e9, 448e9, 31.25 * 2**30),
    "NVIDIA H100 80GB HBM3": Chip(989e12, 3350e9, 450e9, 80e9),
    "NVIDIA H200": Chip(989e12, 4800e9, 450e9, 141e9),
}


def model_flops(encoder: EncoderModule, params: Any, pairs: Pairs) -> float:
    """Operations that a batch's encoding takes forward and backward, with nothing made twice and without the loss."""

    def forward(params: Any, pairs: Pairs) -> Any:
        def encode(rows: Inputs) -> Any:
            return encoder.apply({"params": params}, rows)

        return encode_pairs(encode, pairs)

    return 3 * program_flops(
        forward, params, pairs
    )  # the backward pass takes two products for each of the forward one's


def program_flops(f: Callable, *args: Any) -> float:
    """Operations of matrix products and convolutions in `f(*args)`, over all devices; a multiplication and an addition
    are two. `args` may be ShapeDtypeStructs. Of a branch, the costlier side counts. Raises ValueError for a loop whose
    trip count is not known.
    """
    return _of_program(jax.make_jaxpr(f)(*args).jaxpr)


def _of_program(program: core.Jaxpr) -> float:
    """Of what its outputs need: a kernel that is made again by rule, and whose result was kept, is not computed."""
    total, needed = 0.0, {variable for variable in program.outvars if isinstance(variable, core.Var)}
    for equation in reversed(program.eqns):
        if equation.effects or not needed.isdisjoint(equation.outvars):
            total += _of(equation)
            needed |= {variable for variable in equation.invars if isinstance(variable, core.Var)}
    return total


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
