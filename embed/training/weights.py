"""The encoder's parameters of a checkpoint: loaded, saved alone, checked and hashed."""

import hashlib
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from orbax.checkpoint import v1 as ocp

from embed.data.tokenizer import Tokenizer
from embed.distributed import hosts, mesh, storage
from embed.model import freezing, lora
from embed.model.build import EncoderModule, build
from embed.model.params import param_shapes, param_structs, to_shape_dtype
from embed.training.checkpoint import CheckpointError, checkpointer, locate, orbax_path
from embed.training.metadata import read_architecture, read_metadata


def load_params(path: storage.Path, target: Any = None) -> dict:
    """Load the encoder's parameters: sharded as `target`, or as numpy arrays without it.

    Adapters are merged into their weights, and frozen layers into their stack. Raises CheckpointError where there is
    none, where its parameters are not those of `target`, or are not finite.
    """
    run, step = locate(path)
    read_metadata(path)  # refuses what has to be migrated
    context = ocp.Context()
    context.pytree_options.loading.partial_load = True
    folder = orbax_path(run / "checkpoints" / str(step))
    with context:
        saved = ocp.metadata(folder, checkpointable_name="state").metadata["encoder"]
        if target is None:
            target = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), saved)
            params = ocp.load(folder, {"encoder": target}, checkpointable_name="state")["encoder"]
            params = jax.tree.map(np.asarray, freezing.merge_lower(lora.merge_adapters(params)))
            check_finite(params, path)
            return params
        target = to_shape_dtype(lora.with_saved_adapters(freezing.with_saved_split(target, saved), saved))
        other = sorted(dict(param_shapes(saved).items() ^ param_shapes(target).items()))
        if other:
            raise CheckpointError(
                f"{len(other)} parameters of {path} are not the encoder's, or not of its shapes, such as {other[0]}"
            )
        params = ocp.load(folder, {"encoder": target}, checkpointable_name="state")["encoder"]
        params = freezing.merge_lower(lora.merge_adapters(params))
    check_finite(params, path)
    return params


def load_encoder(path: storage.Path, trust: Collection[str] = ()) -> EncoderModule:
    """Build the encoder that a checkpoint was trained with; it holds no parameters.

    `trust` holds the import paths ("module:Class") of encoders outside embed that may be imported. Raises
    CheckpointError where there is no checkpoint, EncoderError where its encoder cannot be used.
    """
    return build(read_architecture(read_metadata(path)), trust=trust)


def load_sharded(path: storage.Path, trust: Collection[str] = ()) -> dict:
    """Load a checkpoint's parameters, adapters merged, as f32 on the current mesh, sharded as its encoder says.

    Every device reads its own part. Raises what `load_encoder` and `load_params` do.
    """
    return load_params(path, param_structs(load_encoder(path, trust)))


def save_params(
    run: storage.Path, params: dict, metadata: dict[str, Any], tokenizer: Tokenizer, *, step: int = 0
) -> None:
    """Write the encoder's parameters alone as `run/checkpoints/STEP`, with `metadata_for`'s metadata and a tokenizer.

    Earlier steps are deleted. Each host writes what its devices hold, and returns when all of it can be read. Raises
    CheckpointError as `orbax_path` does, and StorageError where another process writes to the folder.
    """
    orbax_path(run)
    run.mkdir(parents=True, exist_ok=True)
    with hosts.lock_folder(run):
        if hosts.is_primary():
            tokenizer.save(run / "tokenizer.json")
        with checkpointer(run, every=1, keep=1) as saver:
            saver.save(step, {"encoder": params}, custom_metadata=metadata, force=True, overwrite=True)
    hosts.barrier(f"saved {run}")


def check_finite(params: dict, name: storage.Path | str) -> None:
    """Raise CheckpointError, naming `name` and a leaf, where parameters hold NaN or infinity.

    Takes numpy or JAX arrays; on many hosts all call this, on the parameters' mesh. The `bounds` of a clipped map may
    be infinite, not NaN.
    """
    flat: dict[str, Any] = flatten_dict(params, sep="/")
    on_host = {path: _is_usable(path, leaf, np) for path, leaf in flat.items() if isinstance(leaf, np.ndarray)}
    on_device = jax.device_get(_are_usable({path: leaf for path, leaf in flat.items() if path not in on_host}))
    usable = on_host | on_device
    broken = sorted(path for path in usable if not usable[path])
    if broken:
        raise CheckpointError(
            f"{name}: parameter {broken[0]} holds NaN or infinity, as do {len(broken) - 1} of the other "
            f"{len(flat) - 1}: it overflowed, or was saved in part; take another checkpoint, or convert it in float32"
        )


def _is_usable(path: str, leaf: Any, numpy: Any) -> Any:
    is_bounds = path.rsplit("/", 1)[-1] == "bounds"
    return numpy.all(~numpy.isnan(leaf) if is_bounds else numpy.isfinite(leaf))


@jax.jit
def _are_usable(flat: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {path: _is_usable(path, leaf, jnp) for path, leaf in flat.items()}


def hash_params(params: dict) -> str:
    """Hash every parameter: other weights, other vectors. On many hosts all call this, on the parameters' mesh."""
    digest = hashlib.blake2b(digest_size=16)
    for path, leaf in jax.tree.leaves_with_path(params):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        values = leaf if leaf.is_fully_addressable else mesh.to_host(leaf)
        digest.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
