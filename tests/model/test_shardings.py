"""Shardings survive every shape: rows, kv heads, segments and media of one, on every mesh.

A layout that a reshape forgot is a trace-time error with explicit axes, so nothing here is compiled.
"""

import dataclasses

import jax
import pytest
from conftest import ARCH

from embed.batch import Candidates
from embed.data.budget import Budget
from embed.data.packing import PackedRows, Packing
from embed.data.tasks import Task, batch_structs
from embed.distributed import mesh
from embed.losses.contrastive import contrastive_loss
from embed.losses.ring import ring_score
from embed.model.build import build
from embed.model.encoder import encode_by_microbatch, encode_pairs
from embed.model.params import param_structs
from embed.model.presets import PRESETS

MESHES = [(1, 1, 1), (2, 2, 2)]
ONE_KV_HEAD = dataclasses.replace(
    ARCH,
    local_attention=dataclasses.replace(ARCH.local_attention, num_kv_heads=1),
    local_per_group=1,
    layer_groups=1,
)
MODELS = {
    **{
        name: build(PRESETS[name], remat=True)
        for name in ("tiny", "tiny_embeddinggemma2", "tiny_gemma4_e2b", "tiny_gemma4_12b")
    },
    "one_kv_head": build(ONE_KV_HEAD, remat=True),
    "late_fusion": build(dataclasses.replace(ARCH, encoder="embed.model.late_fusion:LateFusion"), remat=True),
    **{
        f"{pooling}_{attention}": build(dataclasses.replace(ARCH, pooling=pooling, attention=attention))
        for pooling, attention in (("first", "bidirectional"), ("last", "causal"), ("max", "causal"))
    },
}


def parts_of_the_mesh() -> int:
    return mesh.local_batch_shards()[1]


def check(model, task: Task, microbatch: int | None = None) -> None:
    """Traces the gradients of a batch of the task: they lie as their parameters do, and embeddings by row."""

    def loss(params, pairs):
        def encode(inputs):
            rows = microbatch or len(inputs.tokens)
            return encode_by_microbatch(lambda part: model.apply({"params": params}, part), inputs, rows)

        query, target, negative = encode_pairs(encode, pairs)
        assert jax.typeof(query).sharding.spec[0] == jax.typeof(target).sharding.spec[0] == mesh.BATCH
        options = dict(temperature=0.05, widths=model.arch.matryoshka_dims, candidates=task.candidates)
        plain = contrastive_loss(query, target, negative, pairs, **options)[0]
        return plain + contrastive_loss(query, target, negative, pairs, scorer=ring_score, **options)[0]

    def grads(params, pairs):
        found = jax.grad(loss)(params, pairs)
        same = jax.tree.map(lambda a, b: jax.typeof(a) == jax.typeof(b), params, found)
        assert all(jax.tree.leaves(same)), same
        return found

    params = param_structs(model)
    jax.eval_shape(grads, params, batch_structs(task, model.arch.media))


@pytest.mark.parametrize("shape", MESHES)
@pytest.mark.parametrize("name", MODELS)
def test_one_row_a_device_of_every_modality(name, shape):
    with jax.set_mesh(mesh.make_mesh(shape)):
        model, rows = MODELS[name], parts_of_the_mesh()
        frames = 4 if model.arch.media.mel_bins else 1
        media = Budget(24, images=1, patches=model.arch.media.image_patches // 8 or 1, clips=1, frames=frames)
        check(model, Task("one", rows, 1, Budget(40), media, negatives=1, candidates=Candidates(symmetric=True)))


@pytest.mark.parametrize("shape", MESHES)
@pytest.mark.parametrize("name", ["one_kv_head", "late_fusion", "last_causal", "max_causal"])
def test_one_packed_group_a_device(name, shape):
    with jax.set_mesh(mesh.make_mesh(shape)):
        budget, parts = Budget(24, images=1, patches=4), parts_of_the_mesh()
        packing = Packing(2, PackedRows(1, 2, Budget(48)), PackedRows(1, 4, Budget(96, images=2, patches=4)))
        check(MODELS[name], Task("packed", 2 * parts, 1, Budget(24), budget, negatives=1, packing=packing))


@pytest.mark.parametrize("tokens", [1, 2])
def test_a_row_of_one_or_two_tokens(tokens):
    check(MODELS["late_fusion"], Task("short", 1, 1, Budget(tokens), Budget(tokens)))


def test_microbatches_of_one_row():
    check(MODELS["one_kv_head"], Task("rows", 2, 1, Budget(40), Budget(40)), microbatch=1)
