"""The device mesh, and the table of shardings of every kind of tensor.

Axes: `replica` (across slices; parameters are copied), `data` (batch, and parameters sharded over it), `model` (heads,
hidden units, vocabulary). Axes are explicit, so an array's sharding is part of its type and a wrong one fails at trace
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

# Activations are sharded by row, and inside a layer by heads or hidden units.
ROWS = P(BATCH)  # [b, ...]
TOKENS = P(BATCH, None, None)  # [b, l, d], [b, s, e]
HEADS = P(BATCH, None, "model", None)  # [b, l, h, k]
HIDDEN = P(BATCH, None, "model")  # [b, l, f]
GATED = P(BATCH, None, None, "model")  # [n, t, 2, w]
PATCHES = P(BATCH, None, None, None)  # [b, i, p, d], [b, a, t, d]
EMBEDDINGS = P(BATCH, None)  # [q, e], [q, n]

# Parameters: d is sharded over `data` and gathered at use; the other axis is sharded over `model`.
VOCABULARY = P("model", "data")  # [v, d]
QUERY = P("data", "model", None)  # [d, h, k]
KEY_VALUE = P("data", None, None)  # [d, g, k]: often fewer groups than `model` has devices
ATTENTION_OUT = P("model", None, "data")  # [h, k, d]
UP = P("data", "model")  # [d, f]
DOWN = P("model", "data")  # [f, d]
PER_LAYER = P("data", None, None)  # [d, n, p]
PER_LAYER_TABLE = P("model", None, "data")  # [v, n, p]
IN = P(None, "data")  # [c, d]: patches or audio frames to d
OUT = P("data", None)  # [d, e]
FILTER = P(None, None, "data")  # [f, c, w]
KERNEL = P(None, None, None, None)  # [y, x, c, w]: small, with fewer channels than a pod has chips
GATE = P("data", None, "model")  # [w, 2, w]
DEPTHWISE = P(None, "model")  # [kernel, w]
VECTOR = P(None)  # norms and biases
TABLE = P(None, None, "data")  # [positions, 2, d]


def make_mesh(shape: Sequence[int], devices: Sequence[Any] | None = None) -> Mesh:
    """Make a mesh of (replica, data, model) devices with explicit axes; data = -1 takes all remaining devices.

    Raises ValueError where the shape does not fit the number of devices, or a host has no device in it.
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


def is_single_cpu() -> bool:
    """Whether the mesh is one CPU device."""
    current = jax.sharding.get_abstract_mesh()
    return current.size == 1 and current.abstract_device.platform == "cpu"


def shard(x: jax.Array, spec: P) -> jax.Array:
    """Shard x as `spec`, which may leave out trailing axes; x itself where it is sharded so already.

    For shardings that may be lost: since JAX 0.11 a reshape or slice forgets them on axes of size 1
    (jax-ml/jax#39309), and products and concatenations want equal ones.
    """
    spec = P(*spec, *(None,) * (x.ndim - len(spec)))
    return x if jax.typeof(x).sharding.spec == spec else jax.reshard(x, spec)


def split_leading(rows: jax.Array, groups: int) -> jax.Array:
    """Reshape rows[(n k),...] to [n,k,...] for n groups, sharded by group. A plain reshape may shard k too."""
    return rows.reshape(groups, len(rows) // max(groups, 1), *rows.shape[1:], out_sharding=ROWS)


def merge_leading(groups: jax.Array) -> jax.Array:
    """Reshape [n,k,...], sharded by group, to rows[(n k),...]. A plain reshape of one group forgets the sharding."""
    n, k, *rest = groups.shape
    return groups.reshape(n * k, *rest, out_sharding=ROWS)


def current_mesh() -> Mesh:
    """Return the mesh that is set (`jax.set_mesh`), else a mesh of one of this host's devices."""
    mesh = jax.sharding.get_mesh()
    return make_mesh((1, 1, 1), jax.local_devices()[:1]) if mesh.empty else mesh


def local_batch_shards() -> tuple[list[int], int]:
    """Return which shards of a batch's rows this host's devices hold, and the number of shards on the mesh.

    Devices that differ in `model` alone hold the same shard: where they belong to several hosts, all of these hold it.
    """
    mesh = jax.sharding.get_mesh()
    grid = mesh.devices.reshape(-1, mesh.shape["model"])
    process = jax.process_index()
    shards = [i for i, devices in enumerate(grid) if any(device.process_index == process for device in devices)]
    return shards, len(grid)


def to_global(batch: Any) -> Any:
    """Make arrays of the mesh, sharded by row, of this host's rows: numpy leaves, its `local_batch_shards` in order."""
    sharding = NamedSharding(jax.sharding.get_mesh(), ROWS)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), batch)


def shard_rows(rows: np.ndarray) -> jax.Array:
    """Make an array of the mesh, sharded by row, of rows that every host has in full."""
    sharding = NamedSharding(jax.sharding.get_mesh(), ROWS)
    return jax.make_array_from_callback(rows.shape, sharding, lambda index: rows[index])


def replicate(rows: np.ndarray) -> jax.Array:
    """Make an array that every device holds in full, of rows that every host has."""
    sharding = NamedSharding(jax.sharding.get_mesh(), P())
    return jax.make_array_from_callback(rows.shape, sharding, lambda index: rows[index])


def to_host(array: jax.Array) -> np.ndarray:
    """Return an array of the mesh in full on every host. All hosts must call this."""
    return np.asarray(jax.reshard(array, P()))
