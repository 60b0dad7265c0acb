"""Training the upper layers alone: the lower groups of layers are a stack of their own, which has no backward pass.

    freeze = functools.partial(freezing.freeze_lower, groups=2)
    Run(..., init_transform=freeze, trainable=freezing.is_upper)

The encoder runs `lower_groups` before `groups`. As the token tables below them are frozen too, nothing beneath the
upper layers has a gradient, optimizer state or saved activations. Loading a checkpoint merges the two stacks.
"""

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from embed.model.params import Path, is_table

GROUPS = ("backbone", "groups")
LOWER = ("backbone", "lower_groups")


def is_upper(path: Path) -> bool:
    """Whether a leaf is neither in the lower groups nor a token table: the `trainable` of a `Run`."""
    return path[:2] != LOWER and not is_table(path)


def freeze_lower(key: jax.Array, params: dict, groups: int) -> dict:
    """Move the first `groups` groups of layers to `backbone/lower_groups`.

    Raises ValueError where fewer than one group would be left to train.
    """
    flat = flatten_dict(params)
    count = min(leaf.shape[0] for path, leaf in flat.items() if path[:2] == GROUPS)
    if not 1 <= groups < count:
        raise ValueError(f"{groups} frozen groups of {count}: choose 1 to {count - 1}; a group is several layers")
    out = {}
    for path, leaf in flat.items():
        if path[:2] == GROUPS:
            out[*LOWER, *path[2:]] = leaf[:groups]
            out[path] = leaf[groups:]
        else:
            out[path] = leaf
    return unflatten_dict(out)


def with_saved_split(target: dict, saved: dict) -> dict:
    """`target` (ShapeDtypeStructs on a mesh) with the lower groups apart, where a saved tree has them so."""
    counts = {leaf.shape[0] for path, leaf in flatten_dict(saved).items() if path[:2] == LOWER}
    if not counts:
        return target
    return jax.eval_shape(lambda params: freeze_lower(jax.random.key(0), params, min(counts)), target)


def merge_lower(params: dict) -> dict:
    """Put the lower groups back before the others; parameters without them are returned unchanged."""
    flat = flatten_dict(params)
    out = {path: leaf for path, leaf in flat.items() if path[:2] != LOWER}
    for path, leaf in flat.items():
        if path[:2] == LOWER:
            upper = (*GROUPS, *path[2:])
            out[upper] = jnp.concatenate([leaf, flat[upper]])
    return unflatten_dict(out)
