"""Low-rank adapters (LoRA, arXiv 2106.09685): W + (alpha / rank) A B, where A and B alone train.

A weight's adapters lie beside it as `lora_a` and `lora_b`. The encoder knows nothing of them: the loss merges first,
and `load_params` merges for all that reads a run.

    def loss(params, pairs, candidates, key):
        params = lora.merged(params)
        ...

    adapt = functools.partial(lora.init, rank=8, adapted=lambda path: "attention" in path)
    loop.Run(..., init_transform=adapt, trainable=lora.is_adapter)

Gradients and optimizer state are of A and B. The backward pass forms the gradient of the merged weights on its way to
them, and frees it: a step needs room for two more copies of what is adapted.
"""

import math

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import P

from embed.model.params import ParamFilter, Path, all_params

# Input and output axes of what can be adapted, by the name of its layer; stacked layers have more in front.
AXES = {
    "query": "d hk",
    "key": "d hk",
    "value": "d hk",
    "out": "hk d",
    "gate": "d f",
    "up": "d f",
    "down": "f d",
    "per_layer_gate": "d p",
    "per_layer_out": "p d",
}
# A constant, as in the paper (§4.1): under Adam, tuning it would be tuning the rate again.
ALPHA = 16.0
A, B = "lora_a", "lora_b"


def is_adapter(path: Path) -> bool:
    """Whether the leaf at `path` is one of an adapter's two: the `trains` of `train.fit`."""
    return path[-1] in (A, B)


def add_adapters(key: jax.Array, params: dict, rank: int, adapted: ParamFilter = all_params) -> dict:
    """`params` and, beside every weight of `AXES` that `adapted` chooses by its path, A f32[..., inputs, rank] and
    B f32[..., rank, outputs].

    A starts normal with variance 1 / (product of the input sizes), the same values on every mesh, and B zero, so that
    the start is the base. A lies on the mesh as the weight's input axes, B as its output axes; the rank is replicated.
    Raises ValueError for a rank that a weight cannot have, and where no weight is chosen.
    """
    flat = flatten_dict(params)
    chosen = sorted(path for path in flat if path[-1] == "weight" and path[-2] in AXES and adapted(path))
    if not chosen:
        raise ValueError(f"no weight to adapt: `adapted` chooses none of the layers {', '.join(AXES)}")
    for path, own in zip(chosen, jax.random.split(key, len(chosen)), strict=True):
        weight, (inputs, outputs) = jax.typeof(flat[path]), AXES[path[-2]].split()
        lead = weight.ndim - len(inputs) - len(outputs)
        middle = lead + len(inputs)
        fan_in, fan_out = math.prod(weight.shape[lead:middle]), math.prod(weight.shape[middle:])
        if not 1 <= rank <= min(fan_in, fan_out):
            raise ValueError(
                f"rank {rank} for {'/'.join(path[:-1])}, which maps {fan_in} numbers to {fan_out}: "
                f"1 to {min(fan_in, fan_out)} are possible; `adapted` can leave a weight out"
            )
        spec = weight.sharding.spec
        shape, layout = (*weight.shape[:middle], rank), P(*spec[:middle], None)
        flat[*path[:-1], A] = fan_in**-0.5 * jax.random.normal(own, shape, jnp.float32, out_sharding=layout)
        shape, layout = (*weight.shape[:lead], rank, *weight.shape[middle:]), P(*spec[:lead], None, *spec[middle:])
        flat[*path[:-1], B] = jnp.zeros(shape, jnp.float32, out_sharding=layout)
    return unflatten_dict(flat)


def with_saved_adapters(like: dict, saved: dict) -> dict:
    """`like` (ShapeDtypeStructs on a mesh) with the adapters that a saved tree of arrays or their shapes has."""
    ranks = {path[:-1]: leaf.shape[-1] for path, leaf in flatten_dict(saved).items() if path[-1] == A}
    if not ranks:
        return like

    def adapted(params: dict) -> dict:
        return add_adapters(jax.random.key(0), params, max(ranks.values()), lambda path: path[:-1] in ranks)

    return jax.eval_shape(adapted, like)


def merge_adapters(params: dict) -> dict:
    """`params` with every pair of adapters added to its weight and left out: what the encoder takes.

    Weights keep their layout; parameters without adapters come back as they are.
    """
    flat = flatten_dict(params)
    out = {path: leaf for path, leaf in flat.items() if not is_adapter(path)}
    for *module, name in flat:
        if name == A:
            a, b = flat[*module, A], flat[*module, B]
            inputs, outputs = AXES[module[-1]].split()
            # Of full precision on every device, so that a model read elsewhere is the one that was trained.
            product = jnp.einsum(f"...{inputs}r,...r{outputs}->...{inputs}{outputs}", a, b, precision="highest")
            out[*module, "weight"] = out[*module, "weight"] + ALPHA / a.shape[-1] * product
    return unflatten_dict(out)
