"""The device mesh, and the one table that says how every kind of tensor lies on it.

Axes: `replica` (across slices; parameters are copied), `data` (batch, and parameters sharded over it), `model` (heads,
hidden units, vocabulary). Axes are explicit, so an array's layout is part of its type and a wrong one fails at trace
time.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import P
from jax.sharding import AxisType, Mesh, NamedSharding

AXES = ("replica", "data", "model")
BATCH = ("replica", "data")

# Activations: what is sharded is the row, and inside a layer its heads or hidden units.
ROWS = P(BATCH)  # [b, ...]
TOKENS = P(BATCH, None, None)  # [b, l, d], [b, s, e]
HEADS = P(BATCH, None, "model", None)  # [b, l, h, k]
HIDDEN = P(BATCH, None, "model")  # [b, l, f]
GATED = P(BATCH, None, None, "model")  # [n, t, 2, w]
MASK = P(BATCH, None, None, None)  # [b, 1, l, l]
PATCHES = P(BATCH, None, None, None)  # [b, i, p, d], [b, a, t, d]
EMBEDDINGS = P(BATCH, None)  # [q, e], [q, n]

# Parameters: the width is spread over `data` and gathered at use; the other side is split over `model`.
VOCABULARY = P("model", "data")  # [v, d]
QUERY = P("data", "model", None)  # [d, h, k]
KEY_VALUE = P("data", None, None)  # [d, g, k]: often fewer groups than `model` has devices
ATTENTION_OUT = P("model", None, "data")  # [h, k, d]
UP = P("data", "model")  # [d, f]
DOWN = P("model", "data")  # [f, d]
PER_LAYER = P("data", None, None)  # [d, n, p]
PER_LAYER_TABLE = P("model", None, "data")  # [v, n, p]
IN = P(None, "data")  # [c, d]: raw content to width
OUT = P("data", None)  # [d, e]
FILTER = P(None, None, "data")  # [f, c, w]
KERNEL = P(None, None, None, None)  # [y, x, c, w]: few numbers, and fewer channels than a pod has chips
GATE = P("data", None, "model")  # [w, 2, w]
DEPTHWISE = P(None, "model")  # [kernel, w]
VECTOR = P(None)  # norms and biases
TABLE = P(None, None, "data")  # [positions, 2, d]


def make_mesh(shape: Sequence[int], devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of (replica, data, model) devices with explicit axes; data = -1 takes every device that is left.

    Raises ValueError where the shape and the number of devices do not fit, or a host has no part in it.
    """
    devices = list(jax.devices() if devices is None else devices)
    replica, data, model = shape
    if data == -1:
        data = len(devices) // (replica * model)
    if replica * data * model > len(devices) or min(replica, data, model) < 1:
        raise ValueError(f"mesh {tuple(shape)} (replica, data, model) does not fit {len(devices)} devices")
    used = devices[: replica * data * model]
    idle = {device.process_index for device in devices} - {device.process_index for device in used}
    if idle:
        raise ValueError(
            f"mesh {tuple(shape)} (replica, data, model) uses no device of host {min(idle)}; make it larger"
        )
    return jax.make_mesh((replica, data, model), AXES, axis_types=(AxisType.Explicit,) * 3, devices=used)


def shard(x: jax.Array, spec: P) -> jax.Array:
    """x laid out as `spec`, with whole axes for those that it does not name; x itself where it lies so already.

    For where a layout is needed that may be lost: since JAX 0.11 a reshape or slice forgets it on axes of size 1
    (jax-ml/jax#39309), and products and concatenations want equal ones.
    """
    spec = P(*spec, *(None,) * (x.ndim - len(spec)))
    return x if jax.typeof(x).sharding.spec == spec else jax.reshard(x, spec)


def split_leading(rows: jax.Array, groups: int) -> jax.Array:
    """rows[(n k),...] -> [n,k,...] for n groups, sharded by group. A plain reshape may shard k too on some meshes."""
    return rows.reshape(groups, len(rows) // max(groups, 1), *rows.shape[1:], out_sharding=ROWS)


def merge_leading(groups: jax.Array) -> jax.Array:
    """[n,k,...] sharded by group -> rows[(n k),...]. A plain reshape of one group forgets the layout."""
    n, k, *rest = groups.shape
    return groups.reshape(n * k, *rest, out_sharding=ROWS)


def current_mesh() -> Mesh:
    """The mesh that is set (`jax.set_mesh`), else one of this host's devices."""
    mesh = jax.sharding.get_mesh()
    return make_mesh((1, 1, 1), jax.local_devices()[:1]) if mesh.empty else mesh


def local_batch_shards() -> tuple[list[int], int]:
    """Which of the equal parts of a batch's rows this host's devices hold, and how many parts there are on the mesh.

    A part is what the devices hold that differ in `model` alone: where those belong to several hosts, all have it.
    """
    mesh = jax.sharding.get_mesh()
    grid = mesh.devices.reshape(-1, mesh.shape["model"])
    here = jax.process_index()
    return [i for i, line in enumerate(grid) if any(device.process_index == here for device in line)], len(grid)


def to_global(batch: Any) -> Any:
    """This host's rows of every numpy leaf (its `local_batch_shards`, in order) -> arrays of the whole mesh, sharded by row."""
    sharding = NamedSharding(jax.sharding.get_mesh(), ROWS)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), batch)


def shard_rows(rows: np.ndarray) -> jax.Array:
    """Rows that every host has whole -> an array of the mesh, sharded by row."""
    sharding = NamedSharding(jax.sharding.get_mesh(), ROWS)
    return jax.make_array_from_callback(rows.shape, sharding, lambda index: rows[index])


def replicate(rows: np.ndarray) -> jax.Array:
    """Rows that every host has -> an array that every device has whole."""
    sharding = NamedSharding(jax.sharding.get_mesh(), P())
    return jax.make_array_from_callback(rows.shape, sharding, lambda index: rows[index])


def to_host(array: jax.Array) -> np.ndarray:
    """An array of the mesh, whole on every host. All hosts must ask for it."""
    return np.asarray(jax.reshard(array, P()))
