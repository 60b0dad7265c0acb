"""FLOPs of a function, from the products in its program with their repetitions, and the peaks of chips.

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

    flops: float  # per second, bfloat16
    bandwidth: float  # bytes per second of its main memory
    interconnect: float  # bytes per second to the other chips of its slice, over all links
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
    """Count the FLOPs of a batch's encoding, forward and backward, without recomputation and without the loss."""

    def forward(params: Any, pairs: Pairs) -> Any:
        def encode(rows: Inputs) -> Any:
            return encoder.apply({"params": params}, rows)

        return encode_pairs(encode, pairs)

    # The backward pass takes two products for each of the forward pass.
    return 3 * program_flops(forward, params, pairs)


def program_flops(f: Callable, *args: Any) -> float:
    """Count the FLOPs of matrix products and convolutions in `f(*args)`, over all devices.

    A multiply-add is two FLOPs; of a branch, the costlier side counts. `args` may be ShapeDtypeStructs. Raises
    ValueError for a loop whose trip count is not known.
    """
    return _program_flops(jax.make_jaxpr(f)(*args).jaxpr)


def _program_flops(program: core.Jaxpr) -> float:
    """Count what the outputs need; what rematerialization repeats for a result that was saved is dead code."""
    total, needed = 0.0, {variable for variable in program.outvars if isinstance(variable, core.Var)}
    for equation in reversed(program.eqns):
        if equation.effects or not needed.isdisjoint(equation.outvars):
            total += _equation_flops(equation)
            needed |= {variable for variable in equation.invars if isinstance(variable, core.Var)}
    return total


def _equation_flops(equation: core.JaxprEqn) -> float:
    name, settings = equation.primitive.name, equation.params
    if name == "dot_general":
        contracted = settings["dimension_numbers"][0][0]
        operand = _shape(equation.invars[0])
        return 2.0 * math.prod(_shape(equation.outvars[0])) * math.prod(operand[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = _shape(equation.invars[1])
        features = kernel[settings["dimension_numbers"].rhs_spec[0]]
        return 2.0 * math.prod(_shape(equation.outvars[0])) * math.prod(kernel) / features
    inner = [_program_flops(program) for program in _inner_programs(settings)]
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


def _inner_programs(settings: dict[str, Any]) -> Iterator[core.Jaxpr]:
    """Yield the programs among an equation's settings."""
    for value in settings.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item
