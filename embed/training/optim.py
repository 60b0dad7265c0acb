"""The optimizer: AdamW with warm-up and cosine decay, clipping, no decay on vectors, and a guard against NaN."""

import jax
import optax

from embed.model import params as partition

NEVER = 2**31 - 1
# Vectors and scalars, told by name since scanned layers stack them: scales and biases of norms and maps, what a layer's
# output is multiplied by, the audio tower's scale of each dimension of a head, and constants.
NO_DECAY = ("scale", "bias", "scalar", "per_dim_scale", *partition.CONSTANTS)


def adamw(
    peak: float, warmup: int, steps: int, *, decay: float = 0.01, clip: float = 1.0
) -> optax.GradientTransformation:
    """AdamW whose learning rate rises to `peak` in `warmup` updates and falls to a tenth of it at `steps`.

    Gradients are clipped to global norm `clip`; weight decay is for matrices and tables alone, not vectors or scalars.
    An update that is not finite is skipped and counted (`skipped_updates`), never applied.
    """
    schedule = optax.warmup_cosine_decay_schedule(0.0, peak, warmup, max(steps, warmup + 1), end_value=peak / 10)
    inner = optax.chain(
        optax.clip_by_global_norm(clip),
        optax.adamw(schedule, b2=0.98, weight_decay=decay, mask=is_matrix),
    )
    return optax.apply_if_finite(inner, max_consecutive_errors=NEVER)


def is_matrix(params: dict) -> dict:
    """Which leaves are decayed: weights, kernels and tables."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in NO_DECAY, params)


def skipped_updates(state: optax.OptState) -> tuple[jax.Array, jax.Array]:
    """(consecutive, total) i32[] counts of the updates left out because they were not finite."""
    return state.notfinite_count, state.total_notfinite  # type: ignore[union-attr]
