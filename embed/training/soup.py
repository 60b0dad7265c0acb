"""Model soups: the weighted mean of checkpoints in float32, on the mesh, with one parent in memory beside the sum.

Parents are steps of one run or of several. The result is a checkpoint of the encoder's parameters alone, whose metadata
names parents, weights and scores (report §3.3; the greedy soup: Wortsman et al., arXiv 2203.05482).
"""

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import numpy as np

from embed.distributed import storage
from embed.training.metadata import code_version, load_preprocessor, read_metadata
from embed.training.weights import load_sharded, save_params

Score = Callable[[dict], float]


class SoupError(ValueError):
    """Checkpoints cannot be averaged; the message names two of them and the difference."""


def check_same_form(parents: Sequence[storage.Path]) -> None:
    """Raise SoupError unless all parents share their architecture and input specification."""
    first = read_metadata(parents[0])
    for other in parents[1:]:
        metadata = read_metadata(other)
        for part in ("architecture", "input_spec"):
            if metadata[part] != first[part]:
                keys = {key for key in first[part] | metadata[part] if first[part].get(key) != metadata[part].get(key)}
                raise SoupError(f"{parents[0]} and {other} differ in {part}: {', '.join(sorted(keys))}")


def average(parents: Sequence[storage.Path], weights: Sequence[float], trust: Collection[str] = ()) -> dict:
    """Return the weighted mean of the parents' parameters, f32, sharded as the encoder's; weights are normalized.

    Needs a mesh (`jax.set_mesh`): every device averages its own shard; on many hosts all call this. Raises SoupError
    for parents of different form or weights that are not positive, CheckpointError for parameters that are not the
    encoder's.
    """
    if not parents or len(parents) != len(weights) or min(weights) <= 0:
        raise SoupError(f"{len(parents)} parents need as many weights, all above zero; got {list(weights)}")
    check_same_form(parents)
    shares = [np.float32(weight / sum(weights)) for weight in weights]
    total = _scale(load_sharded(parents[0], trust), shares[0])
    for parent, share in zip(parents[1:], shares[1:], strict=True):
        total = _add_scaled(total, load_sharded(parent, trust), share)
    return total


@functools.partial(jax.jit, donate_argnums=0)
def _scale(params: dict, share: jax.Array) -> dict:
    return jax.tree.map(lambda leaf: share * leaf, params)


@functools.partial(jax.jit, donate_argnums=0)
def _add_scaled(total: dict, params: dict, share: jax.Array) -> dict:
    return jax.tree.map(lambda partial_sum, leaf: partial_sum + share * leaf, total, params)


def greedy(
    parents: Sequence[storage.Path], score: Score, trust: Collection[str] = ()
) -> tuple[dict, list[storage.Path], list[dict[str, Any]]]:
    """Build a greedy soup: from the best parent on, each next one is kept if the uniform mean with it scores no lower.

    `score` maps parameters to the validation score, the same on every host. Returns (parameters, kept parents, all
    trials). Raises what `average` does.
    """
    single_scores = [(score(load_sharded(parent, trust)), parent) for parent in parents]
    trials: list[dict[str, Any]] = [{"parents": [str(parent)], "score": value} for value, parent in single_scores]
    ranked = [parent for _, parent in sorted(single_scores, key=lambda pair: -pair[0])]
    kept, best = ranked[:1], max(value for value, _ in single_scores)
    for parent in ranked[1:]:
        candidates = [*kept, parent]
        value = score(average(candidates, [1.0] * len(candidates), trust))
        trials.append({"parents": [str(path) for path in candidates], "score": value})
        if value >= best:
            kept, best = candidates, value
    return average(kept, [1.0] * len(kept), trust), kept, trials


def save(folder: storage.Path, params: dict, parents: Sequence[storage.Path], **lineage: Any) -> None:
    """Write a soup as `folder/checkpoints/0`, with the parents' architecture, input specification and data, and its
    lineage."""
    first = read_metadata(parents[0])
    metadata = {
        **{name: first[name] for name in ("architecture", "input_spec")},
        "code": code_version(),
        "data": [read_metadata(parent).get("data") for parent in parents],
        "soup": {"parents": [str(parent) for parent in parents], **lineage},
    }
    save_params(folder, params, metadata, load_preprocessor(parents[0]).tokenizer)
