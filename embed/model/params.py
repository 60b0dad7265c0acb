"""Trees of parameters: their shapes and shardings, and their split into trained and frozen ones by path."""

from collections.abc import Callable
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from embed.model.build import EncoderModule
from embed.model.encoder import init_params

Path = tuple[str, ...]  # of a leaf: ("backbone", "final_norm", "scale")
ParamFilter = Callable[[Path], bool]

# Leaves that come with a checkpoint and are never trained: clipping bounds of the towers' linear maps, shift and
# scale of soft tokens.
CONSTANTS = ("bounds", "shift", "stretch")


def all_params(path: Path) -> bool:
    """Select every leaf."""
    return True


def is_table(path: Path) -> bool:
    """Whether a leaf is a table of token embeddings."""
    return path[-1] in ("vocabulary", "table")


def without_tables(path: Path) -> bool:
    """Select every leaf but the token tables: a `trainable` for a foundation model, whose tables know every token.

    The tables are more than half of a small model, and so would be their optimizer state.
    """
    return not is_table(path)


def split_params(params: dict, trainable: ParamFilter) -> tuple[dict, dict]:
    """Split into (trained, frozen) nested dicts: the leaves that `trainable` selects, the others and all constants.

    `merge_params` is the inverse. Raises ValueError where no leaf is selected.
    """
    flat = flatten_dict(params)
    trained = {path: leaf for path, leaf in flat.items() if trainable(path) and path[-1] not in CONSTANTS}
    if not trained:
        raise ValueError(f"nothing trains: `trainable` is false for every path, such as {min(flat)} and {max(flat)}")
    return unflatten_dict(trained), unflatten_dict({path: leaf for path, leaf in flat.items() if path not in trained})


def merge_params(trained: dict, frozen: dict) -> dict:
    """Merge the two parts of `split_params` into one nested dict."""
    return unflatten_dict(flatten_dict(trained) | flatten_dict(frozen))


def param_shapes(params: dict) -> dict[str, tuple[int, ...]]:
    """The shape of every leaf by its path ("backbone/final_norm/scale"), sorted: a form to compare and to save."""
    flat: dict[str, Any] = flatten_dict(params, sep="/")
    return {path: tuple(leaf.shape) for path, leaf in sorted(flat.items())}


def to_shape_dtype(tree: Any) -> Any:
    """ShapeDtypeStructs on the current mesh, as restore targets (with abstract meshes, orbax restores the saved
    sharding instead)."""
    mesh = jax.sharding.get_mesh()

    def leaf_struct(x: Any) -> jax.ShapeDtypeStruct:
        spec = getattr(getattr(x, "sharding", None), "spec", None) or jax.P()
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=jax.NamedSharding(mesh, spec))

    return jax.tree.map(leaf_struct, tree)


def param_structs(encoder: EncoderModule) -> dict:
    """An encoder's parameters as ShapeDtypeStructs on the current mesh; nothing is allocated."""
    return to_shape_dtype(jax.eval_shape(lambda: init_params(encoder, jax.random.key(0))))
