"""Packed pairs have the vectors, gradients and hashes of unpacked ones, whatever is packed and on whatever mesh."""

import dataclasses
import io

import jax
import numpy as np
import pytest
import soundfile
from conftest import ARCH
from flax.traverse_util import flatten_dict
from test_mixture import png, same

from embed.batch import Pairs
from embed.data import mixture
from embed.data.budget import Budget
from embed.data.collate import make_packed_rows
from embed.data.modalities import Audio, Image, Text
from embed.data.packing import OVERFLOWED, PackedRows, Packing, assign, fit_rows, pack
from embed.data.pieces import TextPiece
from embed.data.records import Record, RecordError
from embed.data.tasks import Task, batch_structs, make_pairs
from embed.distributed import mesh
from embed.losses.contrastive import contrastive_loss
from embed.model.build import build
from embed.model.encoder import encode_by_microbatch, encode_pairs, init_params

SMALL = dataclasses.replace(
    ARCH, d_model=16, d_ff=24, layer_groups=1, per_layer_dim=4, matryoshka_dims=(4, 8, 16)
)  # little to compile
ENCODER = build(SMALL, remat=False)
ONE, OTHER = Budget(24), Budget(40, images=1, patches=4, clips=1, frames=4)
ROOMY = Packing(
    4,
    PackedRows(2, 3, Budget(40)),
    PackedRows(4, 4, Budget(72, images=4, patches=4, clips=3, frames=4)),
)
PLAIN = Task("mixed", 16, 1.0, ONE, OTHER, negatives=1)
PACKED = dataclasses.replace(PLAIN, packing=ROOMY)


def wav(seed: int) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, np.random.default_rng(seed).uniform(-0.5, 0.5, 1500).astype(np.float32), 16_000, format="WAV")
    return out.getvalue()


class Records:
    """Texts of different lengths to pictures, sounds and both; some without a hard negative, one that is broken."""

    def __len__(self) -> int:
        return 32

    def __getitem__(self, i: int) -> Record:
        if i == 5:
            raise RecordError("number 5 is broken")
        rng = np.random.default_rng(i)
        words = Text("square " * int(rng.integers(1, 4)) + str(i))
        kinds = ((Image(png(i)),), (Audio(wav(i)), words), (words, Image(png(i)), Audio(wav(i))), (words,))
        negatives = (kinds[(i + 1) % 4],) if i % 3 else ()
        return Record(str(i), (words,), kinds[i % 4], negatives)


def keys(count: int = 16) -> np.ndarray:
    return np.array([[i, 7 * i] for i in range(count)])


def vectors(params, pairs: Pairs, microbatch: int):
    def embed(inputs):
        return encode_by_microbatch(lambda rows: ENCODER.apply({"params": params}, rows), inputs, microbatch)

    return encode_pairs(embed, pairs)


def loss(params, pairs: Pairs, microbatch: int):
    return contrastive_loss(*vectors(params, pairs, microbatch), pairs, temperature=0.05, widths=SMALL.matryoshka_dims)[
        0
    ]


def vectors_and_step(pairs: Pairs, microbatch: int):
    """The three sides' vectors, and the value and gradients of the loss, by one program; on the present mesh."""

    def both(params, pairs):
        return vectors(params, pairs, microbatch), jax.value_and_grad(loss)(params, pairs, microbatch)

    params = init_params(ENCODER, jax.random.key(0))
    return jax.tree.map(np.asarray, jax.jit(both)(params, mesh.to_global(pairs)))


def test_vectors_loss_and_gradients_are_those_of_unpacked_pairs(preprocessor):
    plain, packed = (make_pairs(task, preprocessor, Records(), keys()) for task in (PLAIN, PACKED))
    assert not packed.packed.overflowed.any()
    assert np.array_equal(plain.valid, packed.valid) and (~plain.valid).sum() == 1
    for name in ("query_hash", "target_hash", "negative_hash"):
        assert np.array_equal(getattr(plain, name), getattr(packed, name))
    wanted, (value, grads) = vectors_and_step(plain, microbatch=64)
    with jax.set_mesh(mesh.make_mesh((2, 2, 2))):
        found, (packed_value, packed_grads) = vectors_and_step(packed, microbatch=8)
    absent = (plain.negative_hash == plain.target_hash).all(axis=1) | ~plain.valid
    for one, other, real in zip(found, wanted, (plain.valid, plain.valid, ~absent), strict=True):
        np.testing.assert_allclose(one[real], other[real], atol=1e-5 * np.abs(other).max())
    np.testing.assert_allclose(packed_value, value, rtol=1e-5)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads))
    others = flatten_dict(packed_grads)
    for path, leaf in flatten_dict(grads).items():
        np.testing.assert_allclose(others[path], leaf, atol=2e-5 * largest, err_msg=str(path))


def test_what_finds_no_room_is_left_out_with_its_pair_and_counted(preprocessor):
    """And a batch of one group has a loss: its vectors keep their layout."""
    tight = Packing(
        16, PackedRows(2, 8, Budget(44)), PackedRows(16, 4, Budget(72, images=2, patches=4, clips=2, frames=4))
    )
    pairs = make_pairs(dataclasses.replace(PLAIN, packing=tight), preprocessor, Records(), keys())
    lost = pairs.packed.overflowed.reshape(-1)
    assert 0 < lost.sum() < 12
    assert np.array_equal(pairs.valid, ~lost & (np.arange(16) != 5))
    params = init_params(ENCODER, jax.random.key(0))
    plain = make_pairs(PLAIN, preprocessor, Records(), keys())
    both = jax.jit(lambda params, pairs: (vectors(params, pairs, 64)[0], loss(params, pairs, 64)))
    (found, value), (wanted, _) = (jax.tree.map(np.asarray, both(params, mesh.to_global(x))) for x in (pairs, plain))
    assert np.isfinite(value)
    np.testing.assert_allclose(found[pairs.valid], wanted[pairs.valid], atol=1e-5 * np.abs(wanted).max())


def test_rows_hold_no_more_than_they_have_room_for(preprocessor):
    rng = np.random.default_rng(0)
    for trial in range(50):
        inputs = [[TextPiece(tuple([30] * int(n)))] for n in rng.integers(1, 20, 12)]
        inputs[trial % 12] = None
        rows = PackedRows(int(rng.integers(1, 5)), int(rng.integers(1, 5)), Budget(24))
        members, places = pack(inputs, rows, preprocessor)
        made = make_packed_rows(members, rows.budget, preprocessor, rows.max_segments)
        assert len(made.tokens) == rows.count
        inside = [i for i, place in enumerate(places) if place != OVERFLOWED and inputs[i]]
        assert len({places[i] for i in inside}) == len(inside)
        for i in inside:
            row, member = divmod(places[i], rows.max_segments)
            own = made.tokens[row][made.segments[row] == member + 1]
            assert len(own) == len(inputs[i][0].ids) + 2
        assert made.segments.max() <= rows.max_segments
        spare = max((24 - (own > 0).sum() for own in made.segments if own.max() < rows.max_segments), default=0)
        for i in np.flatnonzero(places == OVERFLOWED):
            assert len(inputs[i][0].ids) + 2 > spare


@pytest.mark.parametrize("count", [1, 3, 8])
def test_rows_chosen_by_a_sample_hold_groups_like_it(count):
    """Of texts of very different lengths, some with images or sounds."""
    rng = np.random.default_rng(count)

    def sample(n):
        return np.stack([rng.geometric(0.05, n) + 2, rng.integers(0, 4, n), rng.random(n) < 0.2], axis=1).astype(int)

    rows = fit_rows(sample(2000), 64, count, patches=4, frames=10)
    assert rows.count == count and (rows.budget.patches, rows.budget.frames) == (4, 10)
    assert np.mean([assign(sample(64), rows) == OVERFLOWED for _ in range(200)]) <= 0.01


def test_hosts_together_pack_the_same_rows_in_the_same_places(preprocessor):
    whole = mixture.mixture([PACKED], [Records()], preprocessor, 3)
    for hosts in (2, 4):
        parts = [mixture.mixture([PACKED], [Records()], preprocessor, 3, [line], hosts) for line in range(hosts)]
        for step in range(5):
            joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(part[step][1] for part in parts))
            jax.tree.map(np.testing.assert_array_equal, joined, whole[step][1])
    assert same(whole[7], list(mixture.iterate_batches(whole, 4, 8, workers=2))[3])


def test_shapes_are_those_of_a_batch(preprocessor):
    made = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), make_pairs(PACKED, preprocessor, Records(), keys()))
    assert made == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), batch_structs(PACKED, preprocessor.media))


@pytest.mark.parametrize(
    ("packing", "said"),
    [
        (dataclasses.replace(ROOMY, group=5), "groups of 5 do not divide 16 pairs"),
        (dataclasses.replace(ROOMY, query=PackedRows(2, 3, Budget(20))), "cannot hold an input"),
    ],
)
def test_a_packing_that_does_not_fit_its_task_is_refused(packing, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(PLAIN, packing=packing)


def test_a_batch_must_divide_into_whole_groups_a_part(preprocessor):
    with pytest.raises(ValueError, match=r"4 groups of pairs does not divide into the mesh.s 8 parts"):
        mixture.mixture([PACKED], [Records()], preprocessor, 3, [0], 8)


@pytest.mark.parametrize("seed", [3, 9])
def test_rows_are_found_where_a_larger_row_holds_less(seed):
    """Best fit is not monotonic: with these lengths, no single size that grows lets fewer inputs overflow."""
    rng = np.random.default_rng(seed)
    lengths = np.where(rng.random(200) < 0.6, 128, rng.integers(0, 100, 200))
    lengths = np.where(rng.random(200) < 0.3, 0, lengths)
    rows = fit_rows(np.pad(lengths[:, None], ((0, 0), (0, 2))), 16, 2)
    assert rows.max_segments <= 16 and rows.budget.tokens <= 8 * 128
