"""Model soup: the weighted mean of checkpoints in float32, on the mesh, one parent in memory beside the sum.

Parents may be steps of one run or of several. The result is a params-only checkpoint whose metadata names parents,
weights and scores (report §3.3; Wortsman et al., arXiv 2203.05482, for the greedy form).
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
    """Checkpoints that cannot be averaged; the message names the two and the difference."""


def check_same_shape(parents: Sequence[storage.Path]) -> None:
    """Raises SoupError unless all parents have one architecture, one input contract and one parameter tree."""
    first = read_metadata(parents[0])
    for other in parents[1:]:
        meta = read_metadata(other)
        for part in ("architecture", "input_spec"):
            if meta[part] != first[part]:
                keys = {k for k in first[part] | meta[part] if first[part].get(k) != meta[part].get(k)}
                raise SoupError(f"{parents[0]} and {other} differ in {part}: {', '.join(sorted(keys))}")


def average(parents: Sequence[storage.Path], weights: Sequence[float], trust: Collection[str] = ()) -> dict:
    """The weighted mean of the parents' parameters, f32 in the encoder's layout; weights are normalised to sum to one.

    Needs a mesh (`jax.set_mesh`): every device averages its own part, and on many hosts all take part. Raises SoupError
    for parents of different form, or weights that are not positive, CheckpointError for parameters that are not the
    encoder's.
    """
    if not parents or len(parents) != len(weights) or min(weights) <= 0:
        raise SoupError(f"{len(parents)} parents need as many weights, all above zero; got {list(weights)}")
    check_same_shape(parents)
    shares = [np.float32(weight / sum(weights)) for weight in weights]
    total = _scaled(load_sharded(parents[0], trust), shares[0])
    for parent, share in zip(parents[1:], shares[1:], strict=True):
        total = _added(total, load_sharded(parent, trust), share)
    return total


@functools.partial(jax.jit, donate_argnums=0)
def _scaled(params: dict, share: jax.Array) -> dict:
    return jax.tree.map(lambda leaf: share * leaf, params)


@functools.partial(jax.jit, donate_argnums=0)
def _added(total: dict, params: dict, share: jax.Array) -> dict:
    return jax.tree.map(lambda sofar, leaf: sofar + share * leaf, total, params)


def greedy(
    parents: Sequence[storage.Path], score: Score, trust: Collection[str] = ()
) -> tuple[dict, list[storage.Path], list[dict[str, Any]]]:
    """Best parent first, then each next one stays if the uniform mean with it does not score lower.

    `score` takes parameters and returns the validation score, the same on every host. Returns (parameters, those that
    stayed, every trial). Raises what `average` does.
    """
    alone = [(score(load_sharded(parent, trust)), parent) for parent in parents]
    trials: list[dict[str, Any]] = [{"parents": [str(parent)], "score": value} for value, parent in alone]
    ranked = [parent for _, parent in sorted(alone, key=lambda pair: -pair[0])]
    kept, best = ranked[:1], max(value for value, _ in alone)
    for parent in ranked[1:]:
        tried = [*kept, parent]
        value = score(average(tried, [1.0] * len(tried), trust))
        trials.append({"parents": [str(p) for p in tried], "score": value})
        if value >= best:
            kept, best = tried, value
    return average(kept, [1.0] * len(kept), trust), kept, trials


def save(folder: storage.Path, params: dict, parents: Sequence[storage.Path], **lineage: Any) -> None:
    """Writes a soup as `folder/checkpoints/0`, with the parents' architecture, contract and data, and its own
    lineage."""
    meta = read_metadata(parents[0])
    described = {
        **{name: meta[name] for name in ("architecture", "input_spec")},
        "code": code_version(),
        "data": [read_metadata(parent).get("data") for parent in parents],
        "soup": {"parents": [str(parent) for parent in parents], **lineage},
    }
    save_params(folder, params, described, load_preprocessor(parents[0]).tokenizer)
