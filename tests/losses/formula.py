"""The loss by its definition: one matrix of cosines per width, in float64 where x64 is enabled, without the package.

With the options of `regularizers`, and random cases."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from embed.batch import Pairs

ROWS, WIDTH, T = 16, 12, 0.1


def formula(vectors, pairs, scale, candidates, widths, temperature=T, alpha=0.0, prior=None):
    """Compute the contrastive loss; `alpha` weighs hard negatives, `prior` is the share of unlabeled positives."""
    query, _, negative = vectors
    q, h = len(query), len(negative) // len(query)
    equal_rows = lambda a, b: (a[:, None] == b[None]).all(-1)  # noqa: E731
    keep = ~equal_rows(pairs.query_hash, pairs.query_hash) & ~equal_rows(pairs.target_hash, pairs.target_hash)
    keep &= pairs.valid[None] & candidates.in_batch
    pair_index = np.arange(q * h) // max(h, 1)
    is_own = pair_index[None] == np.arange(q)[:, None]
    shared = ~equal_rows(pairs.query_hash, pairs.query_hash[pair_index]) & pairs.valid[pair_index][None]
    hard = (is_own | (shared & candidates.cross_query_hard_negatives)) & ~equal_rows(
        pairs.target_hash, pairs.negative_hash
    )
    logit_scale = (scale / temperature)[:, None]

    def nll(logits, mask, positive):
        """-log of the positive's share of itself and the masked-in negatives, logits [q,n]."""
        total = logsumexp(jnp.where(mask, logits, -np.inf), 1)
        if prior is not None:
            n = mask.sum(1)
            mean, floor = jnp.exp(total) / jnp.maximum(n, 1), jnp.exp(-logit_scale[:, 0])
            less = jnp.maximum((mean - prior * jnp.exp(positive)) / (1 - prior), floor)
            total = jnp.where(n > 0, jnp.log(jnp.maximum(n, 1) * less), -np.inf)
        return jnp.logaddexp(positive, total) - positive

    loss = 0.0
    for width in widths:
        unit = [x[:, :width] / jnp.linalg.norm(x[:, :width], axis=1, keepdims=True) for x in vectors]
        cosines, negatives = unit[0] @ unit[1].T, unit[0] @ unit[2].T
        positive_cosine = jnp.diagonal(cosines)
        threshold = positive_cosine + (np.inf if candidates.margin is None else candidates.margin)
        weight = alpha * jax.lax.stop_gradient(negatives)
        mask = jnp.concatenate([keep & (cosines <= threshold[:, None]), hard & (negatives <= threshold[:, None])], 1)
        per_example = nll(
            jnp.concatenate([cosines * logit_scale, negatives * logit_scale + weight], 1),
            mask,
            positive_cosine * logit_scale[:, 0],
        )
        if candidates.symmetric:
            reverse_mask = keep & pairs.valid[:, None] & (cosines <= threshold[None])
            per_example = (
                per_example + nll((cosines * logit_scale).T, reverse_mask.T, positive_cosine * logit_scale[:, 0])
            ) / 2
        loss += jnp.sum(jnp.where(pairs.valid, per_example, 0)) / pairs.valid.sum() / len(widths)
    return loss


def random_case(seed: int, h: int, rows: int = ROWS):
    """Vectors of queries, targets and h hard negatives per query; Pairs without inputs; a scale per query."""
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


def relative(value, expected) -> float:
    """The largest difference, relative to the largest expected value."""
    expected = np.asarray(expected)
    return np.abs(np.asarray(value, np.float64) - expected).max(initial=0) / max(np.abs(expected).max(initial=0), 1e-30)
