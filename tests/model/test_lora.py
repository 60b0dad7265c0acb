"""Adapters: they start as nothing, train alone, and merge into weights that give the same embeddings."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ARCH
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import P

from embed.data.budget import Budget
from embed.data.collate import make_rows
from embed.data.modalities import Text
from embed.data.pieces import TextPiece
from embed.data.preprocess import Preprocessor
from embed.data.records import Record
from embed.data.tasks import Task
from embed.distributed import mesh
from embed.embedder import Embedder
from embed.losses.contrastive import contrastive_loss
from embed.model import lora
from embed.model import params as partition
from embed.model.build import build
from embed.model.encoder import encode, encode_pairs, init_params
from embed.training import checkpoint, loop, optim, soup
from embed.training.weights import load_params

ENCODER = build(ARCH, remat=False)
MESHES = [(1, 1, 1), (1, 4, 2)]
RANK = 4
GROUPS = ("backbone", "groups")
TASK = Task("words", 8, 1.0, Budget(8), Budget(8))


def inputs(preprocessor):
    budget = Budget(8)
    many = [[TextPiece(tuple(range(20 + i, 26 + i)))] for i in range(8)]
    return mesh.to_global(make_rows(many, budget, preprocessor))


@pytest.fixture
def born(preprocessor):
    """Parameters as they are made, on the mesh of the moment."""
    return lambda: init_params(ENCODER, jax.random.key(0))


def grown(params, seed: int = 1):
    """Adapters with a B that is not zero."""
    flat = flatten_dict(lora.add_adapters(jax.random.key(seed), params, RANK))
    for i, path in enumerate(sorted(flat)):
        if path[-1] == lora.B:
            flat[path] = flat[path] + 0.1 * jax.random.normal(
                jax.random.key(i), flat[path].shape, out_sharding=jax.typeof(flat[path]).sharding.spec
            )
    return unflatten_dict(flat)


def same(a, b) -> list[bool]:
    return jax.tree.leaves(jax.tree.map(np.array_equal, a, b))


@pytest.mark.parametrize("shape", MESHES)
def test_the_start_is_the_base_bit_for_bit(born, shape):
    with jax.set_mesh(mesh.make_mesh(shape)):
        params = born()
        merged = jax.jit(lora.merge_adapters)(lora.add_adapters(jax.random.key(1), params, RANK))
        assert all(same(merged, params))
        layouts = [jax.tree.map(lambda leaf: jax.typeof(leaf).sharding.spec, tree) for tree in (merged, params)]
        assert layouts[0] == layouts[1]


def test_adapters_lie_as_the_axes_they_map(born):
    with jax.set_mesh(mesh.make_mesh((1, 4, 2))):
        adapted = lora.add_adapters(jax.random.key(1), born(), RANK)
        on_many = jax.tree.map(np.asarray, adapted)
        layer = adapted["backbone"]["groups"]["locals"]
        spec = {
            name: tuple(jax.typeof(module[leaf]).sharding.spec for leaf in (lora.A, lora.B))
            for name, module in (layer["attention"] | layer["mlp"]).items()
            if lora.A in module
        }
        shapes = [layer["attention"]["out"][leaf].shape for leaf in (lora.A, lora.B)]
    assert spec == {
        "query": (P(None, None, "data", None), P(None, None, None, "model", None)),
        "key": (P(None, None, "data", None), P(None, None, None, None, None)),
        "value": (P(None, None, "data", None), P(None, None, None, None, None)),
        "out": (P(None, None, "model", None, None), P(None, None, None, "data")),
        "gate": (P(None, None, "data", None), P(None, None, None, "model")),
        "up": (P(None, None, "data", None), P(None, None, None, "model")),
        "down": (P(None, None, "model", None), P(None, None, None, "data")),
    }
    assert shapes == [
        (ARCH.layer_groups, ARCH.local_per_group, 4, 8, RANK),
        (ARCH.layer_groups, ARCH.local_per_group, RANK, ARCH.d_model),
    ]
    assert all(same(lora.add_adapters(jax.random.key(1), born(), RANK), on_many))


def test_every_named_weight_is_adapted_and_no_other(born):
    params = born()
    adapted = flatten_dict(lora.add_adapters(jax.random.key(1), params, RANK))
    modules = {path[:-1] for path in adapted if lora.is_adapter(path)}
    assert {module[-1] for module in modules} == set(lora.AXES)
    assert len(modules) == 2 * len(lora.AXES)  # of local layers, and of global ones
    few = lora.add_adapters(
        jax.random.key(1), params, RANK, lambda path: path[-2] in ("query", "value") and "global" in path
    )
    assert {path[:-1] for path in flatten_dict(few) if lora.is_adapter(path)} == {
        (*GROUPS, "global", "attention", "query"),
        (*GROUPS, "global", "attention", "value"),
    }


@pytest.mark.parametrize("shape", MESHES)
def test_merging_is_the_product_of_the_paper(born, shape):
    """Against matrices in float64, each layer of each stack, every kind of weight."""
    with jax.set_mesh(mesh.make_mesh(shape)):
        params = grown(born())
        merged = jax.tree.map(np.asarray, jax.jit(lora.merge_adapters)(params))
        flat = {path: np.asarray(leaf, np.float64) for path, leaf in flatten_dict(params).items()}
    for path, weight in flatten_dict(merged).items():
        if (*path[:-1], lora.A) not in flat:
            assert np.array_equal(weight, flat[path])
            continue
        stack = (ARCH.layer_groups, ARCH.local_per_group) if "locals" in path else (ARCH.layer_groups,)
        for layer in np.ndindex(stack):
            a, b = flat[*path[:-1], lora.A][layer], flat[*path[:-1], lora.B][layer]
            change = a.reshape(-1, RANK) @ b.reshape(RANK, -1) * lora.ALPHA / RANK
            expected = flat[path][layer] + change.reshape(weight.shape[len(stack) :])
            np.testing.assert_allclose(weight[layer], expected, atol=1e-6)
            assert np.abs(change).max() > 1e-2


def test_a_merged_layer_gives_what_weight_and_adapters_give(born):
    """x W + alpha/rank (x A) B, never forming the product of A and B."""
    layer = jax.tree.map(lambda leaf: leaf[0], grown(born())["backbone"]["groups"]["global"]["attention"])
    x = jax.random.normal(jax.random.key(5), (3, ARCH.d_model))
    for name in ("query", "key"):
        w, a, b = (layer[name][leaf] for leaf in ("weight", lora.A, lora.B))
        apart = jnp.einsum("ld,dhk->lhk", x, w) + lora.ALPHA / RANK * jnp.einsum("lr,rhk->lhk", x @ a, b)
        together = jnp.einsum("ld,dhk->lhk", x, lora.merge_adapters({name: layer[name]})[name]["weight"])
        np.testing.assert_allclose(together, apart, atol=1e-5)


@pytest.mark.parametrize(
    ("rank", "adapted", "message"),
    [
        (0, partition.all_params, "rank 0 for .*: 1 to 16 are possible"),
        (
            17,
            partition.all_params,
            "rank 17 for backbone/groups/global/attention/key, which maps 32 dimensions to 16: 1 to 16",
        ),
        (4, lambda path: path[0] == "vision", "no weight to adapt: .* query, key, value"),
    ],
)
def test_what_cannot_be_adapted(born, rank, adapted, message):
    with pytest.raises(ValueError, match=message):
        lora.add_adapters(jax.random.key(1), born(), rank, adapted)


def test_adapters_are_decayed_like_matrices(born):
    trained, frozen = partition.split_params(lora.add_adapters(jax.random.key(1), born(), RANK), lora.is_adapter)
    assert all(jax.tree.leaves(optim.is_matrix(trained)))
    state = optim.adamw(1e-2, 1, 9).init(trained)
    moments = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
    assert moments == 2 * sum(leaf.size for leaf in jax.tree.leaves(trained))
    assert partition.param_shapes(frozen) == partition.param_shapes(born())


class Records:
    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Record:
        return Record(str(index), (Text(f"a {index} red"),), (Text(f"f{index} x"),))


def loss(params, pairs, candidates, key):
    merged = lora.merge_adapters(params.encoder)
    sides = encode_pairs(lambda rows: ENCODER.apply({"params": merged}, rows), pairs)
    return contrastive_loss(*sides, pairs, temperature=0.05, widths=ARCH.matryoshka_dims, candidates=candidates)


def fit(folder, preprocessor, steps, rank=RANK, adapted=partition.all_params, **more):
    run = loop.Run(
        ENCODER,
        [TASK],
        loss,
        optim.adamw(1e-2, warmup=2, steps=100),
        steps=steps,
        seed=0,
        data=folder,
        folder=folder,
        init_transform=functools.partial(lora.add_adapters, rank=rank, adapted=adapted),
        trainable=lora.is_adapter,
        loop=loop.LoopConfig(save=10, keep=9),
        **more,
    )
    return loop.fit(run, preprocessor, [Records()])


def losses(run) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tokenizer):
    """A run of 20 steps on a mesh of 8 devices, stopped in the middle; and one that was not."""
    preprocessor = Preprocessor(tokenizer, ARCH.media)
    folder = tmp_path_factory.mktemp("lora")
    with jax.set_mesh(mesh.make_mesh((1, 4, 2))):
        begun = jax.tree.map(np.asarray, fit(folder / "whole", preprocessor, 0).encoder)
        whole = jax.tree.map(np.asarray, fit(folder / "whole", preprocessor, 20))
        fit(folder / "stopped", preprocessor, 10)
        stopped = jax.tree.map(np.asarray, fit(folder / "stopped", preprocessor, 20))
    return folder / "whole", begun, whole, stopped


def test_training_moves_adapters_alone_and_lowers_the_loss(trained):
    run, begun, state, _ = trained
    (adapters, base), (adapters_before, base_before) = (
        partition.split_params(params, lora.is_adapter) for params in (state.encoder, begun)
    )
    assert all(same(base, base_before)) and not any(same(adapters, adapters_before))
    assert partition.param_shapes(state.optimizer.inner_state[1][0].mu.encoder) == partition.param_shapes(adapters)
    values = losses(run)
    assert np.mean(values[-4:]) < np.mean(values[:4]) - 0.3


def test_a_run_of_adapters_goes_on_bit_for_bit(trained):
    _, _, whole, stopped = trained
    assert all(same(whole, stopped))


@pytest.mark.parametrize("shape", MESHES)
def test_a_run_is_read_as_the_encoder_it_trained(trained, preprocessor, born, shape):
    run, _, state, _ = trained
    with jax.set_mesh(mesh.make_mesh(shape)):
        read, batch = load_params(run), inputs(preprocessor)
        assert partition.param_shapes(read) == partition.param_shapes(born())
        merging = jax.jit(lambda params: ENCODER.apply({"params": lora.merge_adapters(params)}, batch)[:, 0])(
            state.encoder
        )
        np.testing.assert_allclose(encode(ENCODER, read, batch), merging, atol=1e-5)
        _, base = partition.split_params(state.encoder, lora.is_adapter)
        assert np.abs(np.asarray(encode(ENCODER, base, batch)) - merging).max() > 1e-2


def test_a_run_of_adapters_and_its_soup_are_that_run_merged_and_a_place_to_start(trained, preprocessor, tmp_path):
    run, *_ = trained
    soup.save(tmp_path / "merged", soup.average([run], [1.0]), [run])
    for start in (run, tmp_path / "merged"):
        state = fit(tmp_path / f"from_{start.name}", preprocessor, 0, init=start)
        assert all(same(lora.merge_adapters(state.encoder), load_params(run)))
    vectors = [Embedder.load(folder).embed(["a red square", "größer"]) for folder in (run, tmp_path / "merged")]
    assert np.array_equal(*vectors)


@pytest.mark.parametrize("change", [{"rank": 2}, {"adapted": lambda path: "attention" in path}])
def test_other_adapters_are_refused(trained, preprocessor, change):
    run, *_ = trained
    with pytest.raises(checkpoint.CheckpointError, match="trained_parameters"):
        fit(run, preprocessor, 21, **change)
