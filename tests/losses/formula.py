"""The loss by its definition, in float64 where x64 is on: one matrix of cosines a width, nothing shared with the
package. With what other recipes change in it, and random cases."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from embed.batch import Pairs

ROWS, WIDTH, T = 16, 12, 0.1


def formula(vectors, pairs, scale, candidates, widths, temperature=T, alpha=0.0, prior=None):
    """The contrast. `alpha` weighs hard negatives, `prior` is taken out of the negatives' sums."""
    query, _, negative = vectors
    q, h = len(query), len(negative) // len(query)
    same = lambda a, b: (a[:, None] == b[None]).all(-1)  # noqa: E731
    keep = ~same(pairs.query_hash, pairs.query_hash) & ~same(pairs.target_hash, pairs.target_hash)
    keep &= pairs.valid[None] & candidates.in_batch
    owner = np.arange(q * h) // max(h, 1)
    mine = owner[None] == np.arange(q)[:, None]
    shared = ~same(pairs.query_hash, pairs.query_hash[owner]) & pairs.valid[owner][None]
    hard = (mine | (shared & candidates.cross_query_hard_negatives)) & ~same(pairs.target_hash, pairs.negative_hash)
    sharp = (scale / temperature)[:, None]

    def against(logits, there, positive):
        """-log of the positive's share; logits [q,n] of the negatives that are there."""
        total = logsumexp(jnp.where(there, logits, -np.inf), 1)
        if prior is not None:
            n = there.sum(1)
            mean, floor = jnp.exp(total) / jnp.maximum(n, 1), jnp.exp(-sharp[:, 0])
            less = jnp.maximum((mean - prior * jnp.exp(positive)) / (1 - prior), floor)
            total = jnp.where(n > 0, jnp.log(jnp.maximum(n, 1) * less), -np.inf)
        return jnp.logaddexp(positive, total) - positive

    loss = 0.0
    for width in widths:
        unit = [x[:, :width] / jnp.linalg.norm(x[:, :width], axis=1, keepdims=True) for x in vectors]
        cosines, negatives = unit[0] @ unit[1].T, unit[0] @ unit[2].T
        own = jnp.diagonal(cosines)
        ceiling = own + (np.inf if candidates.margin is None else candidates.margin)
        weight = alpha * jax.lax.stop_gradient(negatives)
        there = jnp.concatenate([keep & (cosines <= ceiling[:, None]), hard & (negatives <= ceiling[:, None])], 1)
        each = against(jnp.concatenate([cosines * sharp, negatives * sharp + weight], 1), there, own * sharp[:, 0])
        if candidates.symmetric:
            back = keep & pairs.valid[:, None] & (cosines <= ceiling[None])
            each = (each + against((cosines * sharp).T, back.T, own * sharp[:, 0])) / 2
        loss += jnp.sum(jnp.where(pairs.valid, each, 0)) / pairs.valid.sum() / len(widths)
    return loss


def random_case(seed: int, h: int, rows: int = ROWS):
    """Vectors of queries, targets and h hard negatives each; Pairs without inputs; a scale for every query."""
    rng = np.random.default_rng(seed)
    vectors = [rng.standard_normal((n, WIDTH)).astype(np.float32) for n in (rows, rows, rows * h)]
    return vectors, random_pairs(rng, rows, h), rng.uniform(0.5, 2, rows).astype(np.float32)


def random_pairs(rng, rows: int, h: int) -> Pairs:
    # Few distinct hashes, so that equal queries, equal targets and false hard negatives all occur.
    sizes = rows, rows, rows * h
    hashes = [np.stack([rng.integers(0, 6, n), rng.integers(0, 2, n)], 1).astype(np.uint32) for n in sizes]
    valid = rng.random(rows) > 0.2
    valid[0] = True
    return Pairs(None, None, None, *hashes, valid)


def relative(found, expected) -> float:
    """The largest difference, relative to the largest number."""
    expected = np.asarray(expected)
    return np.abs(np.asarray(found, np.float64) - expected).max(initial=0) / max(np.abs(expected).max(initial=0), 1e-30)
