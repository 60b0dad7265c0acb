"""On one CPU, products in bfloat16 take a path of their own: the same values and gradients as everywhere else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embed.distributed import mesh
from embed.model.layers import Einsum, cpu_matmul

CASES = [("bld,df->blf", (12, 20)), ("bld,dhk->blhk", (12, 3, 8)), ("blhk,hkd->bld", (3, 8, 12))]


@pytest.mark.parametrize(("equation", "shape"), CASES)
@pytest.mark.parametrize("rows", [(3, 7), (1, 1)])
def test_it_equals_the_einsum_of_other_devices(monkeypatch, equation, shape, rows):
    inputs, output = equation.split(",")[0], equation.split("->")[1]
    axes = jax.P(mesh.BATCH, *[None] * (len(output) - 1))
    module = Einsum(equation, shape, jax.P(*[None] * len(shape)), axes)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(*rows, *shape[: len(inputs) - 2])), jnp.bfloat16)
    calls = []

    def spy(*args):
        calls.append(args)
        return cpu_matmul(*args)

    monkeypatch.setattr("embed.model.layers.cpu_matmul", spy)
    with jax.set_mesh(mesh.make_mesh((1, 1, 1), jax.devices()[:1])):
        x = jax.reshard(x, jax.P(mesh.BATCH, *[None] * (x.ndim - 1)))
        params = module.init(jax.random.key(0), x)
        calls.clear()

        def run(params, x):
            y = module.apply(params, x)
            assert y.dtype == jnp.bfloat16
            return jnp.sum(jnp.sin(y.astype(jnp.float32))), y

        fast = jax.jit(jax.value_and_grad(run, (0, 1), has_aux=True))(params, x)
        assert len(calls) == 1
        monkeypatch.setattr(mesh, "is_single_cpu", lambda: False)
        general = jax.jit(jax.value_and_grad(lambda *args: run(*args), (0, 1), has_aux=True))(params, x)
        assert len(calls) == 1
    for ours, theirs in zip(jax.tree.leaves(fast), jax.tree.leaves(general), strict=True):
        a, b = (np.asarray(leaf, np.float32) for leaf in (ours, theirs))
        assert ours.dtype == theirs.dtype and np.abs(a - b).max() <= 2e-2 * max(np.abs(b).max(), 1e-3)


def test_float32_and_several_devices_do_not_take_it(monkeypatch):
    monkeypatch.setattr("embed.model.layers.cpu_matmul", None)
    module = Einsum("bld,df->blf", (12, 20), jax.P(None, None), mesh.TOKENS)
    for shape, dtype in (((1, 1, 1), jnp.float32), ((1, 8, 1), jnp.bfloat16)):
        with jax.set_mesh(mesh.make_mesh(shape, jax.devices()[: shape[1]])):
            x = jax.reshard(jnp.ones((8, 4, 12), dtype), jax.P(mesh.BATCH, None, None))
            assert module.apply(module.init(jax.random.key(0), x), x).dtype == dtype
