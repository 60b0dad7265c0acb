"""The counter against sums by hand: products in loops, branches, recomputation, kernels, and over devices."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import P

from embed import mesh
from embed.flops import flops
from embed.model.attention import Places, full, fused
from embed.model.layers import KEPT

A = jax.ShapeDtypeStruct((8, 16), jnp.float32)
B = jax.ShapeDtypeStruct((16, 16), jnp.float32)
ONE = 2 * 8 * 16 * 16


def product(a, b):
    return jnp.tanh(a @ b)


def test_products_and_their_gradients():
    assert flops(product, A, B) == ONE
    assert flops(jax.grad(lambda a, b: product(a, b).sum(), (0, 1)), A, B) == 3 * ONE
    again = jax.checkpoint(lambda a, b: product(product(a, b), b))
    assert flops(jax.value_and_grad(lambda a, b: again(a, b).sum(), (0, 1)), A, B) == 2 * (3 + 1) * ONE
    assert flops(jax.grad(lambda a, b: again(a, b).sum(), (0, 1)), A, B) == 2 * 3 * ONE  # nobody asks for the value
    assert flops(lambda a, b: jnp.einsum("ij,kj->ik", a, b), A, B) == ONE


def test_loops_and_branches():
    assert flops(lambda a, b: jax.lax.fori_loop(0, 5, lambda _, a: product(a, b), a), A, B) == 5 * ONE
    assert flops(lambda a, b: jax.lax.scan(lambda a, _: (product(a, b), None), a, length=7)[0], A, B) == 7 * ONE
    assert flops(lambda a, b: jax.lax.cond(a[0, 0] > 0, lambda: product(a, b), lambda: a), A, B) == ONE
    with pytest.raises(ValueError, match="unknown length"):
        flops(lambda a, b: jax.lax.while_loop(lambda a: a[0, 0] > 0, lambda a: product(a, b), a), A, B)


def test_what_every_device_does_is_counted_for_each():
    with jax.set_mesh(mesh.make_mesh((1, 4, 1))):
        spread = jax.shard_map(product, in_specs=(P(mesh.BATCH), P()), out_specs=P(mesh.BATCH))
        a = jax.ShapeDtypeStruct(A.shape, A.dtype, sharding=P(mesh.BATCH, None))
        assert flops(spread, a, B) == ONE


@pytest.mark.parametrize(("window", "share"), [(0, 1), (128, 8 / 16)])
def test_the_kernel_counts_the_tiles_it_visits(window, share):
    """Forward: two products a tile. Of 4 x 4 tiles of 512 a window of 128 leaves at most three in a row."""
    l = 2048
    x = jax.ShapeDtypeStruct((1, l, 2, 16), jnp.float32, sharding=mesh.HEADS)
    ids = jax.ShapeDtypeStruct((1, l), jnp.int32, sharding=P(mesh.BATCH, None))
    one, other = (
        flops(functools.partial(how, window=window), x, x, x, Places(ids, ids))
        for how in (functools.partial(fused, interpret=True), full)
    )
    assert other == 2 * 2 * 2 * l * l * 16
    assert one <= 1.5 * share * other


def test_what_the_kernel_gave_is_kept_where_a_layer_is_made_again():
    """Two products a tile forward, five backward, and the two again only where nothing is kept."""
    x = jax.ShapeDtypeStruct((1, 512, 2, 128), jnp.float32, sharding=mesh.HEADS)
    ids = jax.ShapeDtypeStruct((1, 512), jnp.int32, sharding=P(mesh.BATCH, None))

    def attention(x, ids):
        x = jnp.sin(x)  # what is made again
        return fused(x, x, x, Places(ids, ids), 0, interpret=True)

    def taken(policy):
        layer = jax.checkpoint(attention, policy=policy)
        return flops(jax.value_and_grad(lambda x, ids: jnp.sum(jnp.sin(layer(x, ids)))), x, ids)

    forward = flops(attention, x, ids)
    assert taken(KEPT) == pytest.approx((1 + 2.5) * forward, rel=1e-3)
    assert taken(None) == pytest.approx((2 + 2.5) * forward, rel=1e-3)
