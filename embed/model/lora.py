"""Low-rank adapters (LoRA, arXiv 2106.09685): W + (alpha / rank) A B, where only A and B train.

The adapters of a weight are its siblings `lora_a` and `lora_b` in the parameter tree. The encoder does not know them:
the loss merges first, and loading a checkpoint merges.

    def loss(params, pairs, candidates, key):
        encoder_params = lora.merge_adapters(params.encoder)
        ...

    add = functools.partial(lora.add_adapters, rank=8, adapted=lambda path: "attention" in path)
    loop.Run(..., init_transform=add, trainable=lora.is_adapter)

Only A and B have gradients and optimizer state. The backward pass computes the gradient of the merged weights in
between: a step needs memory for two more copies of the adapted weights.
"""

import math

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import P

from embed.model.params import ParamFilter, Path, all_params

# Input and output axes of the weights that can be adapted, by module name; stacked layers have more axes in front.
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
# A constant, as in the paper (§4.1): under Adam, tuning it would be tuning the learning rate again.
ALPHA = 16.0
A, B = "lora_a", "lora_b"


def is_adapter(path: Path) -> bool:
    """Whether a leaf belongs to an adapter: the `trainable` of a `Run`."""
    return path[-1] in (A, B)


def add_adapters(key: jax.Array, params: dict, rank: int, adapted: ParamFilter = all_params) -> dict:
    """Add A f32[..., inputs, rank] and B f32[..., rank, outputs] to every weight of `AXES` that `adapted` selects.

    A is normal with variance 1 / (product of the input sizes), the same values on every mesh; B is zero, so the merged
    weights start as the base's. A is sharded as the weight's input axes, B as its output axes; the rank is replicated.
    Raises ValueError for a rank that a weight cannot have, and where no weight is selected.
    """
    flat = flatten_dict(params)
    chosen = sorted(path for path in flat if path[-1] == "weight" and path[-2] in AXES and adapted(path))
    if not chosen:
        raise ValueError(f"no weight to adapt: `adapted` selects none of the layers {', '.join(AXES)}")
    for path, leaf_key in zip(chosen, jax.random.split(key, len(chosen)), strict=True):
        weight, (inputs, outputs) = jax.typeof(flat[path]), AXES[path[-2]].split()
        lead = weight.ndim - len(inputs) - len(outputs)
        middle = lead + len(inputs)
        fan_in, fan_out = math.prod(weight.shape[lead:middle]), math.prod(weight.shape[middle:])
        if not 1 <= rank <= min(fan_in, fan_out):
            raise ValueError(
                f"rank {rank} for {'/'.join(path[:-1])}, which maps {fan_in} dimensions to {fan_out}: "
                f"1 to {min(fan_in, fan_out)} are possible; `adapted` can leave a weight out"
            )
        spec = weight.sharding.spec
        shape = (*weight.shape[:middle], rank)
        sharding = P(*spec[:middle], None)
        flat[*path[:-1], A] = fan_in**-0.5 * jax.random.normal(leaf_key, shape, jnp.float32, out_sharding=sharding)
        shape = (*weight.shape[:lead], rank, *weight.shape[middle:])
        sharding = P(*spec[:lead], None, *spec[middle:])
        flat[*path[:-1], B] = jnp.zeros(shape, jnp.float32, out_sharding=sharding)
    return unflatten_dict(flat)


def with_saved_adapters(target: dict, saved: dict) -> dict:
    """`target` (ShapeDtypeStructs on a mesh) with the adapters that a saved tree of arrays or structs has."""
    ranks = {path[:-1]: leaf.shape[-1] for path, leaf in flatten_dict(saved).items() if path[-1] == A}
    if not ranks:
        return target

    def adapted(params: dict) -> dict:
        return add_adapters(jax.random.key(0), params, max(ranks.values()), lambda path: path[:-1] in ranks)

    return jax.eval_shape(adapted, target)


def merge_adapters(params: dict) -> dict:
    """Add every pair of adapters to its weight and drop it: the parameters that the encoder takes.

    Weights keep their sharding; parameters without adapters are returned unchanged.
    """
    flat = flatten_dict(params)
    out = {path: leaf for path, leaf in flat.items() if not is_adapter(path)}
    for *module, name in flat:
        if name == A:
            a, b = flat[*module, A], flat[*module, B]
            inputs, outputs = AXES[module[-1]].split()
            # Full precision on every device: a model loaded elsewhere is the one that was trained.
            product = jnp.einsum(f"...{inputs}r,...r{outputs}->...{inputs}{outputs}", a, b, precision="highest")
            out[*module, "weight"] = out[*module, "weight"] + ALPHA / a.shape[-1] * product
    return unflatten_dict(out)
