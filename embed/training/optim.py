"""The optimizer: AdamW with warm-up and cosine decay, clipping, no decay on vectors, and a guard against NaN.

Parameters that a foundation model lacks (its projection, its maps of images and audio) start at random and need larger
steps than those that it has.
"""

from typing import Any

import jax
import optax

from embed.model.params import CONSTANTS, ParamFilter

NEVER = 2**31 - 1
NEW_FACTOR = 10.0  # learning rate of new parameters, relative to that of the others
# Vectors and scalars of the encoder, known by name since scanned layers stack them: scales and biases of norms and
# linear maps, the factor of a layer's output, the audio tower's scale of each dimension of a head, and constants.
NO_DECAY = ("scale", "bias", "scalar", "per_dim_scale", *CONSTANTS)


def adamw(
    peak: float,
    warmup: int,
    steps: int,
    *,
    decay: float = 0.01,
    clip: float = 1.0,
    is_new: ParamFilter | None = None,
) -> optax.GradientTransformation:
    """Make AdamW whose learning rate rises to `peak` in `warmup` updates and falls to a tenth of it at `steps`.

    Gradients are clipped to global norm `clip`; weight decay applies to matrices and tables alone. The encoder's
    parameters that `is_new` selects learn NEW_FACTOR times as fast. An update that is not finite is skipped and counted
    (`skipped_updates`), never applied.
    """
    schedule = optax.warmup_cosine_decay_schedule(0.0, peak, warmup, max(steps, warmup + 1), end_value=peak / 10)
    inner = optax.chain(
        optax.clip_by_global_norm(clip),
        optax.adamw(schedule, b2=0.98, weight_decay=decay, mask=is_matrix),
        *([_scale_new(is_new)] if is_new else []),
    )
    return optax.apply_if_finite(inner, max_consecutive_errors=NEVER)


def _scale_new(is_new: ParamFilter) -> optax.GradientTransformation:
    """Multiply the updates of new parameters of the encoder."""

    def scale(path: tuple, update: jax.Array) -> jax.Array:
        part, *keys = path
        return update * NEW_FACTOR if part.name == "encoder" and is_new(tuple(key.key for key in keys)) else update

    return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(scale, updates))


def is_matrix(params: Any) -> Any:
    """Return which leaves of Params, or of an encoder's parameters, are decayed: weights, kernels and tables.

    A loss's parameters, which no scan stacks, are decayed from two axes on.
    """

    def is_decayed(path: tuple, leaf: Any) -> bool:
        is_loss = isinstance(path[0], jax.tree_util.GetAttrKey) and path[0].name == "loss"
        return leaf.ndim >= 2 if is_loss else path[-1].key not in NO_DECAY

    return jax.tree_util.tree_map_with_path(is_decayed, params)


def skipped_updates(state: optax.OptState) -> tuple[jax.Array, jax.Array]:
    """Return i32[] counts, in a row and in total, of updates skipped because they were not finite."""
    return state.notfinite_count, state.total_notfinite  # type: ignore[union-attr]
