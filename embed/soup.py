"""Model soup: the weighted mean of checkpoints, streamed in float32, one parent in memory at a time.

Parents may be steps of one run or of several. The result is a params-only checkpoint whose metadata names parents,
weights and scores (report §3.3; Wortsman et al., arXiv 2203.05482, for the greedy form).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from embed import checkpoint, storage

Score = Callable[[dict], float]


class SoupError(ValueError):
    """Checkpoints that cannot be averaged; the message names the two and the difference."""


def same_shape(parents: Sequence[storage.Path]) -> None:
    """Raises SoupError unless all parents have one architecture, one input contract and one parameter tree."""
    first = checkpoint.metadata(parents[0])
    for other in parents[1:]:
        meta = checkpoint.metadata(other)
        for part in ("architecture", "contract"):
            if meta[part] != first[part]:
                keys = {k for k in first[part] | meta[part] if first[part].get(k) != meta[part].get(k)}
                raise SoupError(f"{parents[0]} and {other} differ in {part}: {', '.join(sorted(keys))}")


def average(parents: Sequence[storage.Path], weights: Sequence[float]) -> dict:
    """The weighted mean of the parents' parameters as numpy float32; weights are normalised to sum to one.

    Raises SoupError for parents of different form, or weights that are not positive.
    """
    if not parents or len(parents) != len(weights) or min(weights) <= 0:
        raise SoupError(f"{len(parents)} parents need as many weights, all above zero; got {list(weights)}")
    same_shape(parents)
    total: dict | None = None
    for parent, weight in zip(parents, weights, strict=True):
        share = np.float32(weight / sum(weights))
        scaled = jax.tree.map(
            lambda leaf, share=share: np.asarray(leaf, np.float32) * share, checkpoint.load_params(parent)
        )
        if total is not None and jax.tree.map(np.shape, total) != jax.tree.map(np.shape, scaled):
            raise SoupError(f"{parents[0]} and {parent} have different parameters")
        total = scaled if total is None else jax.tree.map(np.add, total, scaled)
    assert total is not None
    return total


def greedy(parents: Sequence[storage.Path], score: Score) -> tuple[dict, list[storage.Path], list[dict[str, Any]]]:
    """Best parent first, then each next one stays if the uniform mean with it does not score lower.

    `score` takes parameters and returns the validation score. Returns (parameters, those that stayed, every trial).
    """
    alone = [(score(checkpoint.load_params(parent)), parent) for parent in parents]
    trials: list[dict[str, Any]] = [{"parents": [str(parent)], "score": value} for value, parent in alone]
    ranked = [parent for _, parent in sorted(alone, key=lambda pair: -pair[0])]
    kept, best = ranked[:1], max(value for value, _ in alone)
    for parent in ranked[1:]:
        tried = [*kept, parent]
        value = score(average(tried, [1.0] * len(tried)))
        trials.append({"parents": [str(p) for p in tried], "score": value})
        if value >= best:
            kept, best = tried, value
    return average(kept, [1.0] * len(kept)), kept, trials


def save(folder: storage.Path, params: dict, parents: Sequence[storage.Path], **lineage: Any) -> None:
    """Writes a soup as `folder/checkpoints/0`, with the parents' architecture and contract and its own lineage."""
    meta = checkpoint.metadata(parents[0])
    described = {
        **{name: meta[name] for name in ("architecture", "contract")},
        "code": checkpoint.code_version(),
        "soup": {"parents": [str(parent) for parent in parents], **lineage},
    }
    checkpoint.save_params(folder, params, described, checkpoint.load_layout(parents[0]).tokenizer)
