"""Frozen lower layers: the same encoder, gradients of the upper layers alone, and checkpoints that load as any."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ARCH
from flax.traverse_util import flatten_dict, unflatten_dict

from embed.data.budget import Budget
from embed.data.collate import make_rows
from embed.data.modalities import Text
from embed.data.pieces import TextPiece
from embed.data.records import Record
from embed.data.tasks import Task
from embed.distributed import mesh
from embed.embedder import Embedder
from embed.losses.contrastive import contrastive_loss
from embed.model import freezing
from embed.model.build import build
from embed.model.encoder import encode, encode_pairs, init_params
from embed.model.params import param_shapes, split_params, without_tables
from embed.model.presets import PRESETS
from embed.training import loop, optim
from embed.training.weights import load_params

THREE = dataclasses.replace(ARCH, layer_groups=3)
SHARED = dataclasses.replace(ARCH, layer_groups=4, shared_kv_groups=2, shared_d_ff=48)
TAIL = dataclasses.replace(PRESETS["tiny_gemma3_1b"], vocab_size=512)
MESHES = [(1, 1, 1), (1, 4, 2)]


def rows(preprocessor):
    many = [[TextPiece(tuple(range(20 + i, 26 + i)))] for i in range(8)]
    return mesh.to_global(make_rows(many, Budget(8), preprocessor))


@pytest.mark.parametrize("shape", MESHES)
@pytest.mark.parametrize("unroll", [1, 4])
@pytest.mark.parametrize("arch", [ARCH, SHARED, TAIL], ids=["two", "shared", "tail"])
def test_the_split_encoder_is_the_same(preprocessor, arch, unroll, shape):
    preprocessor = dataclasses.replace(preprocessor, media=arch.media)
    with jax.set_mesh(mesh.make_mesh(shape)):
        encoder = build(arch, unroll=unroll)
        params = init_params(encoder, jax.random.key(0))
        split = freezing.freeze_lower(jax.random.key(1), params, 1)
        x = rows(preprocessor)
        np.testing.assert_allclose(encode(encoder, split, x), encode(encoder, params, x), rtol=0, atol=1e-6)
        merged = freezing.merge_lower(split)
        jax.tree.map(np.testing.assert_array_equal, merged, params)
        assert jax.tree.map(jax.typeof, merged) == jax.tree.map(jax.typeof, params)


@pytest.mark.parametrize("groups", [1, 2])
def test_upper_gradients_are_those_of_the_whole(preprocessor, groups):
    encoder = build(THREE)
    params = init_params(encoder, jax.random.key(0))
    x = rows(preprocessor)

    def gradient(params, trainable):
        trained, frozen = split_params(params, trainable)

        def total(trained):
            merged = flatten_dict(trained) | flatten_dict(frozen)
            return jnp.sum(jnp.sin(encode(encoder, unflatten_dict(merged), x)))

        return jax.jit(jax.grad(total))(trained)

    full = flatten_dict(gradient(params, without_tables))
    split = freezing.freeze_lower(jax.random.key(1), params, groups)
    upper = flatten_dict(gradient(split, freezing.is_upper))
    assert ("vocabulary",) not in upper and not any("lower_groups" in path for path in upper)
    for path, leaf in upper.items():
        expected = full[path][groups:] if path[:2] == freezing.GROUPS else full[path]
        np.testing.assert_allclose(leaf, expected, rtol=1e-4, atol=1e-5, err_msg="/".join(path))


def test_the_backward_pass_skips_frozen_layers(preprocessor):
    """The FLOPs of a compiled gradient with two of three groups frozen: forward of all, backward of one."""
    arch = dataclasses.replace(THREE, d_model=64, d_ff=256, per_layer_dim=0)
    encoder = build(arch, unroll=4)
    params = init_params(encoder, jax.random.key(0))
    x = rows(preprocessor)

    def flops(params, trainable):
        trained, frozen = split_params(params, trainable)

        def total(trained):
            merged = flatten_dict(trained) | flatten_dict(frozen)
            return jnp.sum(jnp.sin(encode(encoder, unflatten_dict(merged), x)))

        return jax.jit(jax.grad(total)).lower(trained).compile().cost_analysis()["flops"]

    full = flops(params, without_tables)
    upper = flops(freezing.freeze_lower(jax.random.key(1), params, 2), freezing.is_upper)
    assert upper < 0.7 * full  # (3 + 2) of (3 + 6) parts


def test_training_moves_the_upper_layers_alone_and_the_checkpoint_loads(tmp_path, preprocessor):
    encoder = build(ARCH)
    task = Task("words", 8, 1.0, Budget(8), Budget(8))

    def loss(params, pairs, candidates, key):
        def embed(inputs):
            return encoder.apply({"params": params.encoder}, inputs)

        query, target, negative = encode_pairs(embed, pairs)
        return contrastive_loss(query, target, negative, pairs, temperature=0.05, widths=(32,), candidates=candidates)

    run = loop.Run(
        encoder,
        [task],
        loss,
        optim.adamw(1e-2, warmup=1, steps=4),
        steps=3,
        seed=0,
        data=tmp_path,
        init_transform=functools.partial(freezing.freeze_lower, groups=1),
        trainable=freezing.is_upper,
        folder=tmp_path / "run",
    )
    records = [Record(str(i), (Text(f"red {i}"),), (Text(f"left {i}"),)) for i in range(16)]
    loop.fit(run, preprocessor, [records])
    before = init_params(encoder, jax.random.key(0))
    after = load_params(tmp_path / "run")
    assert param_shapes(after) == param_shapes(before)
    for path, leaf in flatten_dict(after).items():
        start = flatten_dict(before)[path]
        if path[:2] == freezing.GROUPS:
            np.testing.assert_array_equal(leaf[:1], start[:1], err_msg="/".join(path))
            assert path[-1] == "per_layer_table" or np.any(leaf[1:] != start[1:]), path
        elif path == ("vocabulary",):
            np.testing.assert_array_equal(leaf, start)
    assert Embedder.load(tmp_path / "run").embed(["a red square"]).shape == (1, 32)


@pytest.mark.parametrize("groups", [0, 2, -1])
def test_some_group_must_train(groups):
    params = init_params(build(ARCH), jax.random.key(0))
    with pytest.raises(ValueError, match="choose 1 to 1"):
        freezing.freeze_lower(jax.random.key(0), params, groups)
