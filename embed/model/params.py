"""Parameters in two parts, told apart by path: those that train, and those that stay as they are."""

from collections.abc import Callable
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

Path = tuple[str, ...]  # of a leaf: ("backbone", "final_norm", "scale")
ParamFilter = Callable[[Path], bool]

# Leaves that come with a checkpoint and are never trained: where the towers' linear maps clip, and how soft tokens are
# shifted and stretched.
CONSTANTS = ("bounds", "shift", "stretch")


def all_params(path: Path) -> bool:
    """Chooses every leaf."""
    return True


def split_params(params: dict, trains: ParamFilter) -> tuple[dict, dict]:
    """(trained, frozen): nested dicts of the leaves that `trains` chooses and of the others, constants among them;
    `merge_params` undoes it.

    Raises ValueError where it chooses none.
    """
    flat = flatten_dict(params)
    trained = {path: leaf for path, leaf in flat.items() if trains(path) and path[-1] not in CONSTANTS}
    if not trained:
        raise ValueError(f"nothing trains: `trains` is false for every path, such as {min(flat)} and {max(flat)}")
    return unflatten_dict(trained), unflatten_dict({path: leaf for path, leaf in flat.items() if path not in trained})


def merge_params(trained: dict, frozen: dict) -> dict:
    """One nested dict of both parts' leaves."""
    return unflatten_dict(flatten_dict(trained) | flatten_dict(frozen))


def param_shapes(params: dict) -> dict[str, tuple[int, ...]]:
    """The shape of every leaf under its path ("backbone/final_norm/scale"): a tree in a form to compare and to save."""
    flat: dict[str, Any] = flatten_dict(params, sep="/")
    return {path: tuple(leaf.shape) for path, leaf in sorted(flat.items())}
