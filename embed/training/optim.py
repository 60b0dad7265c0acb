"""The optimizer: AdamW with warm-up and cosine decay, clipping, no decay on vectors, and a guard against NaN."""

from typing import Any

import jax
import optax

from embed.model.params import CONSTANTS

NEVER = 2**31 - 1
# Vectors and scalars of the encoder, known by name since scanned layers stack them: scales and biases of norms and
# linear maps, the factor of a layer's output, the audio tower's scale of each dimension of a head, and constants.
NO_DECAY = ("scale", "bias", "scalar", "per_dim_scale", *CONSTANTS)


def adamw(
    peak: float, warmup: int, steps: int, *, decay: float = 0.01, clip: float = 1.0
) -> optax.GradientTransformation:
    """Make AdamW whose learning rate rises to `peak` in `warmup` updates and falls to a tenth of it at `steps`.

    Gradients are clipped to global norm `clip`; weight decay applies to matrices and tables alone. An update that is
    not finite is skipped and counted (`skipped_updates`), never applied.
    """
    schedule = optax.warmup_cosine_decay_schedule(0.0, peak, warmup, max(steps, warmup + 1), end_value=peak / 10)
    inner = optax.chain(
        optax.clip_by_global_norm(clip),
        optax.adamw(schedule, b2=0.98, weight_decay=decay, mask=is_matrix),
    )
    return optax.apply_if_finite(inner, max_consecutive_errors=NEVER)


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
