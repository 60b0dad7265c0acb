"""Counted FLOPs equal sums by hand: products in loops, branches, recomputation and kernels, and over devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
from conftest import ARCH
from jax import P

from embed.batch import Candidates, Pairs
from embed.data.budget import Budget
from embed.data.tasks import Task, batch_structs
from embed.distributed import mesh
from embed.losses.contrastive import contrastive_loss
from embed.losses.negatives import gather_and_score
from embed.losses.ring import ring_score
from embed.model.attention import AttentionMaskInfo, bidirectional, full_attention, sliding_window, splash_attention
from embed.model.build import build
from embed.model.config import Architecture, AttentionSpec
from embed.model.encoder import encode_pairs
from embed.model.layers import REMAT_POLICY
from embed.model.params import param_structs
from embed.training.flops import model_flops, program_flops

A = jax.ShapeDtypeStruct((8, 16), jnp.float32)
B = jax.ShapeDtypeStruct((16, 16), jnp.float32)
ONE = 2 * 8 * 16 * 16


def product(a, b):
    return jnp.tanh(a @ b)


def test_products_and_their_gradients():
    assert program_flops(product, A, B) == ONE
    assert program_flops(jax.grad(lambda a, b: product(a, b).sum(), (0, 1)), A, B) == 3 * ONE
    again = jax.checkpoint(lambda a, b: product(product(a, b), b))
    assert program_flops(jax.value_and_grad(lambda a, b: again(a, b).sum(), (0, 1)), A, B) == 2 * (3 + 1) * ONE
    assert (
        program_flops(jax.grad(lambda a, b: again(a, b).sum(), (0, 1)), A, B) == 2 * 3 * ONE
    )  # nobody asks for the value
    assert program_flops(lambda a, b: jnp.einsum("ij,kj->ik", a, b), A, B) == ONE


def test_loops_and_branches():
    assert program_flops(lambda a, b: jax.lax.fori_loop(0, 5, lambda _, a: product(a, b), a), A, B) == 5 * ONE
    assert program_flops(lambda a, b: jax.lax.scan(lambda a, _: (product(a, b), None), a, length=7)[0], A, B) == 7 * ONE
    assert program_flops(lambda a, b: jax.lax.cond(a[0, 0] > 0, lambda: product(a, b), lambda: a), A, B) == ONE
    with pytest.raises(ValueError, match="unknown length"):
        program_flops(lambda a, b: jax.lax.while_loop(lambda a: a[0, 0] > 0, lambda a: product(a, b), a), A, B)


def test_what_every_device_does_is_counted_for_each():
    with jax.set_mesh(mesh.make_mesh((1, 4, 1))):
        spread = jax.shard_map(product, in_specs=(P(mesh.BATCH), P()), out_specs=P(mesh.BATCH))
        a = jax.ShapeDtypeStruct(A.shape, A.dtype, sharding=P(mesh.BATCH, None))
        assert program_flops(spread, a, B) == ONE


@pytest.mark.parametrize(("l", "window"), [(2048, 0), (2048, 128), (4096, 600), (1024, 100)])
def test_the_kernel_counts_the_tiles_it_visits(l, window):
    """Forward: two products a tile of 512 x 512; every row of tiles takes as long as the one that sees most."""
    near = [
        sum(not window or max(abs(i - j) - 1, 0) * 512 + (i != j) <= window for j in range(l // 512))
        for i in range(l // 512)
    ]
    tile = 2 * 2 * 2 * 512 * 512 * 16  # of two heads
    x = jax.ShapeDtypeStruct((1, l, 2, 16), jnp.float32, sharding=mesh.HEADS)
    ids = jax.ShapeDtypeStruct((1, l), jnp.int32, sharding=P(mesh.BATCH, None))
    one, other = (
        program_flops(functools.partial(how, reach=bidirectional(window)), x, x, x, AttentionMaskInfo(ids, ids))
        for how in (functools.partial(splash_attention, interpret=True), full_attention)
    )
    assert other == 2 * 2 * 2 * l * l * 16
    assert sum(near) * tile <= one == len(near) * max(near) * tile


def test_a_band_counts_three_windows_a_token():
    x = jax.ShapeDtypeStruct((3, 640, 2, 16), jnp.float32, sharding=mesh.HEADS)
    ids = jax.ShapeDtypeStruct((3, 640), jnp.int32, sharding=P(mesh.BATCH, None))
    assert (
        program_flops(functools.partial(sliding_window, reach=bidirectional(64)), x, x, x, AttentionMaskInfo(ids, ids))
        == 2 * 2 * 3 * 2 * 640 * (3 * 64) * 16
    )


TEXT = dataclasses.replace(
    ARCH,
    d_model=128,
    d_ff=256,
    media=dataclasses.replace(ARCH.media, patch_size=0, audio_frame_size=0, mel_bins=0),
    local_attention=AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=32, rope_theta=1e4, window=8),
    global_attention=AttentionSpec(num_heads=4, num_kv_heads=1, head_dim=64, rope_theta=1e6, partial_rotary_factor=0.5),
    matryoshka_dims=(32, 64),
)


def by_hand(arch: Architecture, rows: int, l: int) -> int:
    """The encoder's products forward: its maps, attention over a band or the whole row, pooling and projection."""
    d = arch.d_model

    def layer(spec: AttentionSpec, keys: int) -> int:
        maps = (
            d * spec.head_dim * (2 * spec.num_heads + 2 * spec.num_kv_heads)
            + 3 * d * arch.d_ff
            + 2 * d * arch.per_layer_dim
        )
        return maps + 2 * keys * spec.num_heads * spec.head_dim

    local, full = layer(arch.local_attention, 3 * arch.local_attention.window), layer(arch.global_attention, l)
    each = arch.layer_groups * (arch.local_per_group * local + full) + arch.num_layers * d * arch.per_layer_dim + d
    return 2 * rows * (l * each + d * arch.embed_dim)


def test_an_encoder_takes_its_products_forward_and_backward():
    """Within the few hundredths that norms and rotary positions add: they are written as einsums too."""
    task = Task("any", 4, 1.0, Budget(64), Budget(64), negatives=2)
    pairs, expected = batch_structs(task, TEXT.media), by_hand(TEXT, 4 * (1 + 1 + 2), 64)
    encoders = {remat: build(TEXT, remat=remat) for remat in (False, True)}
    params = param_structs(encoders[False])

    def gradients(encoder):
        def loss(params, pairs):
            return sum(map(jnp.sum, encode_pairs(lambda rows: encoder.apply({"params": params}, rows), pairs)))

        return program_flops(jax.grad(loss), params, pairs)

    assert 3 * expected <= model_flops(encoders[False], params, pairs) <= 3 * 1.02 * expected
    assert 3 * expected <= gradients(encoders[False]) <= 3 * 1.02 * expected
    assert gradients(encoders[False]) < gradients(encoders[True]) <= 4 * 1.02 * expected


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 8, 1)])
@pytest.mark.parametrize(("scorer", "passes"), [(gather_and_score, 3), (ring_score, 4)])
@pytest.mark.parametrize("shared", [False, True])
def test_the_loss_takes_a_product_a_pair_of_vectors(shape, scorer, passes, shared):
    """Forward one, backward two, and the ring makes its scores again; a query's own negatives are kept."""
    q, h, e = 64, 2, 32

    def rows(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=P(mesh.BATCH, *(None for _ in shape[1:])))

    def loss(query, target, negative, *about):
        pairs = Pairs(None, None, None, *about)
        candidates = Candidates(cross_query_hard_negatives=shared)
        how = dict(temperature=0.1, widths=(8, e), candidates=candidates, scorer=scorer)
        return contrastive_loss(query, target, negative, pairs, **how)[0]

    with jax.set_mesh(mesh.make_mesh(shape)):
        hashes = [rows(n, 2, dtype=jnp.uint32) for n in (q, q, q * h)]
        args = (rows(q, e), rows(q, e), rows(q * h, e), *hashes, rows(q, dtype=bool))
        forward, both = program_flops(loss, *args), program_flops(jax.grad(loss, (0, 1, 2)), *args)
    met, its_own = (2 * q * (q + q * h) * e, 0) if shared else (2 * q * q * e, 2 * q * h * e)
    assert (forward, both) == (met + its_own, passes * met + 3 * its_own)


def test_what_the_kernel_gave_is_kept_where_a_layer_is_made_again():
    """Two products a tile forward, five backward, and the two again only where nothing is kept."""
    x = jax.ShapeDtypeStruct((1, 512, 2, 128), jnp.float32, sharding=mesh.HEADS)
    ids = jax.ShapeDtypeStruct((1, 512), jnp.int32, sharding=P(mesh.BATCH, None))

    def attention(x, ids):
        x = jnp.sin(x)  # what is made again
        return splash_attention(x, x, x, AttentionMaskInfo(ids, ids), bidirectional(0), interpret=True)

    def taken(policy):
        layer = jax.checkpoint(attention, policy=policy)
        return program_flops(jax.value_and_grad(lambda x, ids: jnp.sum(jnp.sin(layer(x, ids)))), x, ids)

    forward = program_flops(attention, x, ids)
    assert taken(REMAT_POLICY) == pytest.approx((1 + 2.5) * forward, rel=1e-3)
    assert taken(None) == pytest.approx((2 + 2.5) * forward, rel=1e-3)
