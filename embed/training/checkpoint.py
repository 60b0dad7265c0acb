"""Checkpoints: {step, encoder, loss, optimizer} by orbax, written asynchronously, with metadata.

A run's folder holds `checkpoints/<step>`, `tokenizer.json` and the logs. A soup's folder has the same form with
parameters alone, so everything that reads a run reads a soup.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import subprocess
import types
import typing
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict
from orbax.checkpoint import v1 as ocp

from embed.data.preprocess import Preprocessor
from embed.data.tokenizer import Tokenizer
from embed.distributed import hosts, mesh, storage
from embed.model import lora
from embed.model import params as partition
from embed.model.build import EncoderModule, build
from embed.model.config import Architecture
from embed.model.encoder import init_params

GLOB_CHARACTERS = "*?[\\"  # characters of glob


class CheckpointError(ValueError):
    """A checkpoint that is absent, or that does not fit what is asked of it; the message names both."""


def orbax_path(folder: storage.Path) -> str:
    """The name of a folder for orbax, which takes it for a pattern: it would find no files there, or another folder's.

    Raises CheckpointError where the path has characters of a pattern.
    """
    name = storage.absolute(folder)
    special = [character for character in GLOB_CHARACTERS if character in name]
    if special:
        raise CheckpointError(
            f"{name}: checkpoints cannot be written or read where the path has {' '.join(special)} in it; "
            "name its folders otherwise, or use another workdir"
        )
    return name


@contextlib.contextmanager
def checkpointer(run: storage.Path, every: int, keep: int) -> Iterator[ocp.training.Checkpointer]:
    """Saves each `every` steps and keeps the last `keep`. Raises CheckpointError as `orbax_path` does."""
    saver = ocp.training.Checkpointer(
        orbax_path(run / "checkpoints"),
        save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(every),
        preservation_policy=ocp.training.preservation_policies.LatestN(keep),
    )
    try:
        yield saver
    except storage.Unreachable:
        raise  # closing would wait for what cannot be written, and raise that instead
    except BaseException:
        saver.close()
        raise
    saver.close()


def save(
    saver: ocp.training.Checkpointer, run: storage.Path, step: int, state: Any, meta: dict[str, Any], wait: bool
) -> None:
    """Writes a checkpoint, in the background if not to `wait` for it.

    Where the run is in a bucket, a failure of this one, or of the one before in the background, is said and the
    present state tried again. Raises as `storage.with_retries` does.
    """

    def write() -> None:
        if step not in saved_steps(run):  # where an attempt failed after all was written
            (saver.save if wait else saver.save_async)(step, state, custom_metadata=meta, force=True, overwrite=True)

    storage.with_retries(write, run)


def metadata_for(arch: Architecture, preprocessor: Preprocessor, **more: Any) -> dict[str, Any]:
    """Metadata of a checkpoint: architecture, input contract, code version, and what the caller adds, as plain JSON."""
    described = {
        "architecture": dataclasses.asdict(arch),
        "input_spec": {**preprocessor.input_spec(), "widths": arch.matryoshka_dims},
        "code": code_version(),
        **more,
    }
    return json.loads(json.dumps(described, default=str))


def code_version() -> str:
    """The git commit of the working tree, with a + where it has changes; "unknown" without git or a repository."""
    command = ["git", "-C", str(pathlib.Path(__file__).parent), "describe", "--always", "--dirty=+", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no git here, or none that may be run
        return "unknown"
    return done.stdout.strip() or "unknown"


def to_shape_dtype(tree: Any) -> Any:
    """ShapeDtypeStructs on the present mesh, as restore targets (abstract meshes would fall back to the saved
    layout)."""
    mesh = jax.sharding.get_mesh()

    def leaf(x: Any) -> jax.ShapeDtypeStruct:
        spec = getattr(getattr(x, "sharding", None), "spec", None) or jax.P()
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=jax.NamedSharding(mesh, spec))

    return jax.tree.map(leaf, tree)


def param_structs(encoder: EncoderModule) -> dict:
    """An encoder's parameters as ShapeDtypeStructs on the present mesh; nothing is made."""
    return to_shape_dtype(jax.eval_shape(lambda: init_params(encoder, jax.random.key(0))))


def saved_steps(run: storage.Path) -> list[int]:
    """The finished checkpoints of a run, ascending. Raises StorageError where its bucket cannot be used."""
    storage.check_access(run)
    folder = run / "checkpoints"
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit() and (p / "commit_success.txt").exists())


def locate(path: storage.Path) -> tuple[storage.Path, int]:
    """(run, step) of a run's folder (its last step) or of one `checkpoints/<step>` in it. Raises CheckpointError."""
    path = storage.path(path)
    if path.name.isdigit() and path.parent.name == "checkpoints":
        run, wanted = path.parent.parent, int(path.name)
    else:
        run, wanted = path, -1
    found = saved_steps(run)
    if not found or (wanted >= 0 and wanted not in found):
        raise CheckpointError(f"no finished checkpoint at {path}; steps there: {found or 'none'}")
    return run, wanted if wanted >= 0 else found[-1]


def load_params(path: storage.Path, like: Any = None) -> dict:
    """Return the encoder's parameters, adapters merged: sharded like `like`, or as numpy arrays without it.

    Raises CheckpointError where there is none, where its parameters are not those of `like`, or are not finite.
    """
    run, step = locate(path)
    context = ocp.Context()
    context.pytree_options.loading.partial_load = True
    folder = orbax_path(run / "checkpoints" / str(step))
    with context:
        saved = ocp.metadata(folder, checkpointable_name="state").metadata["encoder"]
        if like is None:
            like = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), saved)
            params = ocp.load(folder, {"encoder": like}, checkpointable_name="state")["encoder"]
            params = jax.tree.map(np.asarray, lora.merge_adapters(params))
            check_finite(params, path)
            return params
        like = to_shape_dtype(lora.with_saved_adapters(like, saved))
        other = sorted(dict(partition.param_shapes(saved).items() ^ partition.param_shapes(like).items()))
        if other:
            raise CheckpointError(
                f"{len(other)} parameters of {path} are not the encoder's, or not of its shapes, such as {other[0]}"
            )
        params = lora.merge_adapters(ocp.load(folder, {"encoder": like}, checkpointable_name="state")["encoder"])
    check_finite(params, path)
    return params


def check_finite(params: dict, where: storage.Path | str) -> None:
    """Raises CheckpointError, naming `where` and a leaf, where parameters hold NaN or an infinity.

    Takes numpy or JAX arrays; on many hosts all call this, on the parameters' mesh. The `bounds` of a clipped map may
    be infinite, not NaN.
    """
    flat: dict[str, Any] = flatten_dict(params, sep="/")
    on_host = {name: _is_usable(name, leaf, np) for name, leaf in flat.items() if isinstance(leaf, np.ndarray)}
    on_device = jax.device_get(_usable({name: leaf for name, leaf in flat.items() if name not in on_host}))
    usable = on_host | on_device
    broken = sorted(name for name in usable if not usable[name])
    if broken:
        raise CheckpointError(
            f"{where}: parameter {broken[0]} holds NaN or infinity, as do {len(broken) - 1} of the other "
            f"{len(flat) - 1}: it overflowed, or was not saved whole; take another checkpoint, or convert it in float32"
        )


def _is_usable(name: str, leaf: Any, numpy: Any) -> Any:
    is_bounds = name.rsplit("/", 1)[-1] == "bounds"
    return numpy.all(~numpy.isnan(leaf) if is_bounds else numpy.isfinite(leaf))


@jax.jit
def _usable(flat: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: _is_usable(name, leaf, jnp) for name, leaf in flat.items()}


def load_sharded(path: storage.Path) -> dict:
    """Parameters of a checkpoint, adapters merged, as f32 on the present mesh in the layout of its encoder.

    Every device reads its own part. Raises what `load_params` does.
    """
    return load_params(path, param_structs(build(architecture(metadata(path)))))


def save_params(run: storage.Path, params: dict, meta: dict[str, Any], tokenizer: Tokenizer, *, step: int = 0) -> None:
    """Write parameters alone as `run/checkpoints/STEP`, with the metadata that `metadata_for` made and their tokenizer.

    Steps before it are deleted.

    Each host writes what its devices hold, and goes on when all of it can be read. Raises CheckpointError as
    `orbax_path` does, and StorageError where another process writes to the folder.
    """
    orbax_path(run)
    run.mkdir(parents=True, exist_ok=True)
    with hosts.lock_folder(run):
        if hosts.is_primary():
            tokenizer.save(run / "tokenizer.json")
        with checkpointer(run, every=1, keep=1) as writer:
            writer.save(step, {"encoder": params}, custom_metadata=meta, force=True, overwrite=True)
    hosts.barrier(f"saved {run}")


def delete_steps(run: storage.Path, first: int) -> None:
    """Delete the checkpoints of a run from step `first` on. On many hosts all call this."""
    if hosts.is_primary():
        for step in saved_steps(run):
            if step >= first:
                epath.Path(run / "checkpoints" / str(step)).rmtree()
    hosts.barrier(f"deleted steps of {run}")


def metadata(path: storage.Path) -> dict[str, Any]:
    """What `metadata_for` wrote into a checkpoint."""
    run, step = locate(path)
    return dict(ocp.metadata(orbax_path(run / "checkpoints" / str(step))).custom_metadata or {})


def lineage(path: storage.Path) -> dict[str, str]:
    """Where a checkpoint comes from, in words: the run or soup it started from or is made of, its step and code."""
    run, step = locate(path)
    meta = metadata(path)
    soup = meta.get("soup", {})
    mixed = zip(soup.get("weights", ()), soup.get("parents", ()), strict=True)
    parents = [f"{weight:g} × {_short(parent)}" for weight, parent in mixed]
    scores = [trial["score"] for trial in (*soup.get("trials", ()), soup) if "score" in trial]
    return {
        "checkpoint": run.name,
        "from": " + ".join(parents) or (_short(meta["init"]) if meta.get("init") else "the seed"),
        "step": str(step) if not soup else "",
        "seed": str(meta.get("seed", "")),
        "dev score": f"{max(scores):.4f}" if scores else "",
        "code": str(meta.get("code", "")),
    }


def _short(path: str) -> str:
    """A run's name, of a step with its number: "finetune/300"."""
    *_, run, folder, name = ("", "", *pathlib.PurePath(path).parts)
    return f"{run}/{name}" if folder == "checkpoints" else name


def architecture(meta: dict[str, Any]) -> Architecture:
    """The architecture a checkpoint was trained with. Raises CheckpointError where it is not of this version's form."""
    return from_json(Architecture, meta["architecture"])


def from_json(kind: Any, value: Any) -> Any:
    """What plain JSON says, as its type hint has it: a dataclass, a tuple, None, a number or a string.

    Raises CheckpointError where the fields are not those of the dataclass.
    """
    if isinstance(kind, types.UnionType):  # X | None
        (kind,) = (each for each in typing.get_args(kind) if each is not types.NoneType)
        return None if value is None else from_json(kind, value)
    if typing.get_origin(kind) is tuple:
        return tuple(from_json(typing.get_args(kind)[0], each) for each in value)
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
        return value
    hints = typing.get_type_hints(kind)
    if hints.keys() != value.keys():
        odd = ", ".join(sorted(hints.keys() ^ value.keys()))
        raise CheckpointError(
            f"a checkpoint of another version of embed: {kind.__name__} differs in {odd}; use that version"
        )
    return kind(**{name: from_json(hints[name], each) for name, each in value.items()})


def load_preprocessor(path: storage.Path) -> Preprocessor:
    """The layout a checkpoint was trained with.

    Raises CheckpointError where its tokenizer is not the one beside it, ValueError where that has ids without a row.
    """
    run, _ = locate(path)
    preprocessor = Preprocessor.load(run / "tokenizer.json", architecture(metadata(path)))
    check_contract(path, preprocessor)
    return preprocessor


def check_contract(path: storage.Path, preprocessor: Preprocessor) -> None:
    """Raises CheckpointError, naming every difference, where a checkpoint expects other inputs than `preprocessor` gives."""
    trained = _flat(metadata(path)["input_spec"])
    wrong = {k: (trained.get(k), v) for k, v in _flat(preprocessor.input_spec()).items() if trained.get(k) != v}
    if wrong:
        listed = "; ".join(f"{k}: checkpoint {a!r}, here {b!r}" for k, (a, b) in wrong.items())
        raise CheckpointError(f"{path} was trained with other inputs: {listed}")


def _flat(contract: dict[str, Any]) -> dict[str, Any]:
    """The contract with the fields of its media format beside the others, as media.NAME."""
    media = {f"media.{name}": value for name, value in contract.get("media", {}).items()}
    return {name: value for name, value in contract.items() if name != "media"} | media


def fingerprint(params: dict) -> str:
    """A hash of every parameter: other weights, other vectors. On many hosts all call this, on the parameters' mesh."""
    digest = hashlib.blake2b(digest_size=16)
    for name, leaf in jax.tree.leaves_with_path(params):
        digest.update(f"{jax.tree_util.keystr(name)} {leaf.dtype} {leaf.shape}".encode())
        here = leaf if leaf.is_fully_addressable else mesh.to_host(leaf)
        digest.update(np.ascontiguousarray(here).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
