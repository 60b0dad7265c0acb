"""Bytes read from a program's text, against sums by hand: of compiled programs, and of lines as a TPU's are."""

import jax
import jax.numpy as jnp
import pytest
from jax import P

from embed.distributed import mesh
from launch.hlo import collectives, hbm_bytes

N = 1 << 16
SCALARS = 64  # bytes at most of a loop's counter in one round


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def text(f, *args):
    return jax.jit(f).lower(*args).compile().as_text()


@pytest.mark.parametrize(
    ("f", "args", "expected"),
    [
        (lambda a, b: a + b, (array(N), array(N)), 3 * 4 * N),
        (lambda a, b: a + b, [array(N, dtype=jnp.bfloat16)] * 2, 3 * 2 * N),
        (lambda a, b: jnp.tanh(a * b) + a, (array(N), array(N)), 3 * 4 * N),  # fused: nothing between is written
        (lambda a: a.sum(), (array(N),), 4 * N + 4),
        (lambda a, b: a @ b, (array(256, 512), array(512, 128)), 4 * (256 * 512 + 512 * 128 + 256 * 128)),
        (lambda a: a[1000:1100] + 1, (array(N),), 2 * 4 * 100),  # the slice alone
        (lambda a, i: a[i], (array(1000, 64), array(10, dtype=jnp.int32)), 2 * 4 * 10 * 64 + 4 * 10),
    ],
)
def test_every_operand_is_read_and_every_result_written_once(f, args, expected):
    assert expected <= hbm_bytes(text(f, *args)) <= expected + SCALARS


@pytest.mark.parametrize("rounds", [1, 4, 30])
@pytest.mark.parametrize(
    ("body", "xs", "each"),
    [
        (lambda c, _: (jnp.sin(c), None), None, 2 * 4 * N),
        (lambda c, x: (jnp.sin(c) + x, None), N, 3 * 4 * N),  # of all `x` a round reads one, its own
        (lambda c, x: (c + x, None), N // 2, 3 * 4 * (N // 2)),
    ],
)
def test_a_loop_counts_as_often_as_it_runs(body, xs, each, rounds):
    """By the difference of two lengths: what is copied around the loop is in both."""

    def bytes_of(length):
        def f(carry, xs):
            return jax.lax.scan(body, carry, xs, length=length)[0]

        return hbm_bytes(text(f, array(xs or N), array(length, xs) if xs else None))

    extra = bytes_of(8 + rounds) - bytes_of(8)
    assert rounds * each <= extra <= rounds * (each + SCALARS)


def test_loops_within_loops_multiply():
    def f(a):
        return jax.lax.fori_loop(0, 6, lambda _, a: jax.lax.fori_loop(0, 7, lambda _, a: jnp.sin(a), a), a)

    once = 2 * 4 * N
    assert 42 * once <= hbm_bytes(text(f, array(N))) <= 42 * (once + SCALARS) + 7 * once  # some copies around them


def test_an_update_in_place_moves_what_is_new():
    def f(a, b, i):
        return jax.lax.dynamic_update_slice(a, b, (i,))

    donated = jax.jit(f, donate_argnums=0).lower(array(N), array(100), array(dtype=jnp.int32)).compile().as_text()
    assert 2 * 4 * 100 <= hbm_bytes(donated) <= 2 * 4 * 100 + SCALARS


TPU = """HloModule jit_f, is_scheduled=true

%fused (p0: f32[8,1024], p1: s32[], p2: bf16[1024]) -> bf16[1024] {
  %p0 = f32[8,1024]{1,0:T(8,128)} parameter(0)
  %p1 = s32[]{:T(128)S(6)} parameter(1)
  %p2 = bf16[1024]{0:T(1024)(128)(2,1)S(1)} parameter(2)
  %zero = s32[]{:T(128)} constant(0)
  %slice = f32[1,1024]{1,0:T(1,128)} dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={1,1024}
  %flat = f32[1024]{0:T(1024)} bitcast(%slice)
  %wide = f32[1024]{0:T(1024)} convert(%p2)
  %sum = f32[1024]{0:T(1024)} add(%flat, %wide)
  ROOT %out = bf16[1024]{0:T(1024)(128)(2,1)} convert(%sum)
}

%updates (p0: f32[8,1024], p1: f32[1,1024], p2: s32[]) -> f32[8,1024] {
  %p0 = f32[8,1024]{1,0:T(8,128)} parameter(0)
  %p1 = f32[1,1024]{1,0:T(1,128)} parameter(1)
  %p2 = s32[]{:T(128)} parameter(2)
  %zero = s32[]{:T(128)} constant(0)
  ROOT %new = f32[8,1024]{1,0:T(8,128)} dynamic-update-slice(%p0, %p1, %p2, %zero)
}

ENTRY %main (a: f32[8,1024], i: s32[], b: bf16[1024], c: f32[1,1024]) -> f32[8,1024] {
  %a = f32[8,1024]{1,0:T(8,128)} parameter(0)
  %i = s32[]{:T(128)} parameter(1)
  %b = bf16[1024]{0:T(1024)(128)(2,1)} parameter(2)
  %c = f32[1,1024]{1,0:T(1,128)} parameter(3)
  %near = bf16[1024]{0:T(1024)(128)(2,1)S(1)} copy(%b)
  %row = bf16[1024]{0:T(1024)(128)(2,1)} fusion(%a, %i, %near), kind=kLoop, calls=%fused
  ROOT %updated = f32[8,1024]{1,0:T(8,128)} fusion(%a, %c, %i), kind=kLoop, calls=%updates
}
"""


def test_memory_of_its_own_slices_and_updates_of_a_tpu():
    """copy: 2 kB read into vector memory; row: 4 kB of `a`, the index, 2 kB written; updated: 4 kB there and back."""
    assert hbm_bytes(TPU) == 2048 + (4096 + 4 + 2048) + (4096 + 4096 + 4)


def on_eight(f, size):
    with jax.set_mesh(mesh.make_mesh((1, 8, 1))):
        spread = jax.shard_map(f, in_specs=P("data"), out_specs=P("data"), check_vma=False)
        x = jax.ShapeDtypeStruct((8 * size,), jnp.float32, sharding=P("data"))
        return collectives(text(spread, x))


@pytest.mark.parametrize(
    ("f", "expected"),
    [
        (lambda x: jax.lax.psum(x, "data"), {"all-reduce": (1, 4 * 512)}),
        (lambda x: jax.lax.all_gather(x, "data").sum(0), {"all-gather": (1, 8 * 4 * 512)}),
        (lambda x: jax.lax.psum_scatter(x, "data", tiled=True), {"reduce-scatter": (1, 4 * 512 // 8)}),
        (lambda x: jax.lax.all_to_all(x, "data", 0, 0, tiled=True), {"all-to-all": (1, 4 * 512)}),
        (
            lambda x: jax.lax.ppermute(x, "data", [(i, (i + 3) % 8) for i in range(8)]),
            {"collective-permute": (1, 4 * 512)},
        ),
        (
            lambda x: jax.lax.fori_loop(0, 3, lambda _, x: jax.lax.all_gather(x, "data")[1] + x, x),
            {"all-gather": (3, 3 * 8 * 4 * 512)},
        ),
    ],
)
def test_what_a_device_receives(f, expected):
    assert on_eight(f, 512) == expected


STARTED = """HloModule jit_f, is_scheduled=true

ENTRY %main (a: f32[64], b: bf16[64]) -> f32[64] {
  %a = f32[64]{0:T(256)} parameter(0)
  %b = bf16[64]{0:T(256)} parameter(1)
  %g = (f32[64]{0:T(256)}, f32[512]{0:T(256)}) all-gather-start(%a), replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}
  %gd = f32[512]{0:T(256)} all-gather-done(%g)
  %h = ((f32[64]{0}, bf16[64]{0}), (f32[512]{0}, bf16[512]{0})) all-gather-start(%a, %b), dimensions={0}
  %hd = (f32[512]{0}, bf16[512]{0}) all-gather-done(%h)
  %p = (f32[64]{0}, f32[64]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%a), source_target_pairs={{0,1}}
  %pd = f32[64]{0} collective-permute-done(%p)
  %r = (f32[64]{0}, bf16[64]{0}) all-reduce-start(%a, %b), to_apply=%add
  %rd = (f32[64]{0}, bf16[64]{0}) all-reduce-done(%r)
  %s = f32[64]{0} all-reduce-start(%a), to_apply=%add
  ROOT %sd = f32[64]{0} all-reduce-done(%s)
}
"""


def test_what_is_started_and_ended_apart_counts_once():
    assert collectives(STARTED) == {
        "all-gather": (2, 4 * 512 + 6 * 512),
        "all-reduce": (2, 6 * 64 + 4 * 64),
        "collective-permute": (1, 4 * 64),
    }
