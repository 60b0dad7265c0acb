"""From imported weights: gradients reach everything that trains and nothing else, and the loss goes down."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from test_golden import GOLDEN

from embed import hf
from embed.batch import REPORT_CANDIDATES, Inputs, Pairs
from embed.distributed import mesh
from embed.losses.contrastive import contrastive_loss
from embed.losses.loss import Params
from embed.model import params as partition
from embed.model.build import build
from embed.training import optim
from embed.training.step import TrainState, make_step


def start(kind):
    """Architecture and parameters of a golden model, and its inputs of every modality as the queries of pairs."""
    arch, params = hf.read_architecture(GOLDEN / kind), hf.load(GOLDEN / kind)
    kept = {name: x for name, x in np.load(GOLDEN / kind / "inputs.npz").items() if name != "mean"}
    query = Inputs(**kept)
    count = len(query.tokens)
    hashes = np.arange(2 * count, dtype=np.uint32).reshape(2, count, 1).repeat(2, axis=2)
    none = jax.tree.map(lambda x: x[:0], query)
    pairs = Pairs(query, none, none, hashes[0], hashes[1], hashes[0][:0], np.ones(count, bool))
    return arch, params, mesh.to_global(pairs)


def objective(arch):
    """The contrast of every input against the next one, whose vector is taken from the same pass."""
    encoder = build(arch, remat=False)

    def loss(params, pairs, candidates, key):
        query = encoder.apply({"params": params.encoder}, pairs.query)[:, 0]
        target = jax.numpy.concatenate([query[-1:], query[:-1]])
        return contrastive_loss(
            query,
            target,
            target[:0],
            pairs,
            temperature=0.1,
            widths=arch.matryoshka_dims,
            candidates=candidates,
        )

    return loss


@pytest.mark.parametrize(  # E4B has no kind of parameter that E2B has not
    ("kind", "frozen"), [("embeddinggemma2", ()), ("gemma4_e2b", ()), ("gemma4_12b", ("audio",))]
)
def test_twenty_steps_lower_the_loss_and_move_what_trains(kind, frozen):
    arch, params, pairs = start(kind)

    def trains(path):
        return path[0] not in frozen

    optimizer = optim.adamw(1e-3, warmup=2, steps=20)
    before = jax.tree.map(np.asarray, params)
    trained = Params(partition.split_params(params, trains)[0], {})
    state = TrainState(jax.numpy.int32(0), params, {}, optimizer.init(trained))
    step = make_step(objective(arch), optimizer, trains)
    losses, key = [], jax.random.key(0)
    for _ in range(20):
        state, metrics = step(state, pairs, REPORT_CANDIDATES, key)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.9 * losses[0] and not metrics["skipped"]
    trained = flatten_dict(partition.split_params(state.encoder, trains)[0])
    for path, leaf in flatten_dict(state.encoder).items():
        moved = bool((np.asarray(leaf) != flatten_dict(before)[path]).any())
        assert moved == (path in trained), path
    assert {path for path in trained if path[0] in frozen} == set()
