"""Memory of a chip that the contrastive loss takes, forward and backward: the ring beside the loss that gathers.

  pip install -e ".[tpu]"; python -m benchmarks.loss_memory

Compiles both for TPU slices, on a host without one: bfloat16 embeddings of 3,072 dimensions, sharded by rows.
"""

import argparse

import jax
import jax.numpy as jnp

from embed.batch import Pairs
from embed.distributed import mesh
from embed.losses.contrastive import contrastive_loss
from embed.losses.negatives import gather_and_score
from embed.losses.ring import ring_score
from embed.training.flops import program_flops
from launch.hlo import parse_overflow
from launch.tpu_slice import slice_devices

WIDTHS = ((3072,), (768, 1536, 3072))
SLICES = {"v5e:4x4": 1 << 16, "v5e:16x16": 1 << 20}  # pairs


def measure(topology: str, batch: int, widths: tuple[int, ...], name: str) -> str:
    """Return a row of the table. The mesh is the current one."""
    rows_sharding = jax.NamedSharding(jax.sharding.get_mesh(), mesh.ROWS)

    def array(dtype: jnp.dtype, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=rows_sharding)

    sides = [array(jnp.bfloat16, rows, widths[-1]) for rows in (batch, batch, 0)]
    hashes = [array(jnp.uint32, rows, 2) for rows in (batch, batch, 0)]
    pairs = Pairs(None, None, None, *hashes, array(jnp.bool_, batch))
    scorer = {"ring": ring_score, "dense": gather_and_score}[name]

    def loss(sides: list[jax.Array], pairs: Pairs) -> jax.Array:
        return contrastive_loss(*sides, pairs, temperature=0.02, widths=widths, scorer=scorer)[0]

    value_and_grad = jax.value_and_grad(loss)
    petaflops = program_flops(value_and_grad, sides, pairs) / 1e15
    try:
        temporary = jax.jit(value_and_grad).lower(sides, pairs).compile().memory_analysis().temp_size_in_bytes
        memory = f"{temporary / 2**30:.3f}"
    except jax.errors.JaxRuntimeError as error:
        memory = "does not fit: {:.1f} of {:.1f}".format(*parse_overflow(error))
    return f"| {topology} | {batch:,} | {len(widths)} | {name} | {memory} | {petaflops:.2f} |"


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("| slice | pairs | widths | loss | temporary GiB per chip | PFLOPs |\n|---|---|---|---|---|---|")
    for topology, batch in SLICES.items():
        with jax.set_mesh(mesh.make_mesh((1, -1, 1), slice_devices(topology))):
            for name in ("ring", "dense"):
                for widths in WIDTHS:
                    print(measure(topology, batch, widths, name), flush=True)


if __name__ == "__main__":
    main()
