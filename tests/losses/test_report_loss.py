"""The loss that trains equals the loss as the report prints it, in value and in every gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from formula import T, random_case, relative

from embed.distributed import mesh
from embed.losses.contrastive import contrastive_loss, report_loss
from embed.losses.negatives import gather_and_score
from embed.losses.ring import ring_score


@pytest.mark.parametrize("scorer", [gather_and_score, ring_score])
@pytest.mark.parametrize("h", [0, 1, 2])
def test_contrastive_loss_is_the_report_loss(h, scorer):
    @jax.jit
    def train(vectors, pairs, log_temperature):
        temperature = jnp.exp(log_temperature)
        value, _ = contrastive_loss(*vectors, pairs, temperature=temperature, widths=(12,), scorer=scorer)
        return value

    @jax.jit
    def report(vectors, pairs, log_temperature):
        query, target, negative = vectors
        hard_negatives = negative.reshape(len(query), h, 12)
        return report_loss(query, target, hard_negatives, pairs, jnp.exp(log_temperature))

    for seed in range(20):
        vectors, pairs, _ = random_case(seed, h)
        pairs.valid[-1] = False
        with jax.enable_x64(True):
            double = [jnp.asarray(x, jnp.float64) for x in vectors]
            expected, expected_grads = jax.value_and_grad(report, (0, 2))(double, pairs, np.log(T))
            expected, expected_grads = jax.tree.map(np.asarray, (expected, expected_grads))
        value, grads = jax.value_and_grad(train, (0, 2))(*mesh.to_global((vectors, pairs)), jnp.log(T))
        assert relative(value, expected) <= 1e-5
        assert max(jax.tree.leaves(jax.tree.map(relative, grads, expected_grads))) <= 1e-5
