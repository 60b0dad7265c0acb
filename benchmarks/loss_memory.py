"""Memory of a chip that the contrastive loss takes, forward and backward: the ring beside the plain loss that gathers.

  pip install -e ".[tpu]"; python -m benchmarks.loss_memory

Compiled for TPU slices on a host without one; bfloat16 embeddings of 3,072 numbers, gradients laid out as they are.
"""

import os

os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from embed.batch import Pairs
from embed.distributed import mesh
from embed.losses.contrastive import contrastive_loss
from embed.losses.negatives import gather_and_score
from embed.losses.ring import ring_score
from embed.training.flops import program_flops
from launch.hlo import parse_overflow

WIDTHS = ((3072,), (768, 1536, 3072))


def line(topology: str, batch: int, widths: tuple[int, ...], name: str) -> str:
    """A row of the table, on the mesh of the moment."""
    here = jax.NamedSharding(jax.sharding.get_mesh(), mesh.ROWS)

    def array(dtype: jnp.dtype, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=here)

    sides = [array(jnp.bfloat16, rows, widths[-1]) for rows in (batch, batch, 0)]
    hashes = [array(jnp.uint32, rows, 2) for rows in (batch, batch, 0)]
    pairs = Pairs(None, None, None, *hashes, array(jnp.bool_, batch))
    scorer = {"ring": ring_score, "dense": gather_and_score}[name]

    def loss(sides: list[jax.Array], pairs: Pairs) -> jax.Array:
        return contrastive_loss(*sides, pairs, temperature=0.02, widths=widths, scorer=scorer)[0]

    both = jax.value_and_grad(loss)
    try:
        taken = jax.jit(both).lower(sides, pairs).compile().memory_analysis().temp_size_in_bytes
        memory = f"{taken / 2**30:.3f}"
    except jax.errors.JaxRuntimeError as error:
        memory = "does not fit: {:.1f} of {:.1f}".format(*parse_overflow(error))
    return f"| {topology} | {batch:,} | {len(widths)} | {name} | {memory} | {program_flops(both, sides, pairs) / 1e15:.2f} |"


def main() -> None:
    print("| slice | pairs | widths | loss | temporary GiB a chip | 1e15 operations |\n|---|---|---|---|---|---|")
    for topology, batch in (("v5e:4x4", 1 << 16), ("v5e:16x16", 1 << 20)):
        devices = topologies.get_topology_desc(topology, platform="tpu").devices
        with jax.set_mesh(mesh.make_mesh((1, -1, 1), devices)):
            for name in ("ring", "dense"):
                for widths in WIDTHS:
                    print(line(topology, batch, widths, name), flush=True)


if __name__ == "__main__":
    main()
