"""What a checkpoint says about itself: architecture, input specification, code version, and its origin."""

import dataclasses
import json
import pathlib
import subprocess
from typing import Any

from orbax.checkpoint import v1 as ocp

from embed.data.preprocess import Preprocessor
from embed.distributed import storage
from embed.model.config import Architecture, from_json
from embed.training.checkpoint import CheckpointError, locate, orbax_path


def metadata_for(arch: Architecture, preprocessor: Preprocessor, **more: Any) -> dict[str, Any]:
    """Return a checkpoint's metadata as plain JSON: architecture, input specification, code version, and `more`."""
    metadata = {
        "architecture": dataclasses.asdict(arch),
        "input_spec": {**preprocessor.input_spec(), "matryoshka_dims": arch.matryoshka_dims},
        "code": code_version(),
        **more,
    }
    return json.loads(json.dumps(metadata, default=str))


def read_metadata(path: storage.Path) -> dict[str, Any]:
    """Return what `metadata_for` wrote into a checkpoint. Raises CheckpointError where it has to be migrated."""
    run, step = locate(path)
    metadata = dict(ocp.metadata(orbax_path(run / "checkpoints" / str(step))).custom_metadata or {})
    if is_version_0_1(metadata):
        raise CheckpointError(f"{path} was made by embed 0.1: convert it with `python -m embed migrate {run} NEW`")
    return metadata


def is_version_0_1(metadata: dict[str, Any]) -> bool:
    """Return whether a checkpoint's metadata are of version 0.1, which `embed.training.migrate` converts."""
    return "contract" in metadata


def code_version() -> str:
    """Return the git commit of the source, with a + if it has changes; "unknown" without git or a repository."""
    command = ["git", "-C", str(pathlib.Path(__file__).parent), "describe", "--always", "--dirty=+", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # git is missing, or may not be run
        return "unknown"
    return done.stdout.strip() or "unknown"


def read_architecture(metadata: dict[str, Any]) -> Architecture:
    """Return the architecture a checkpoint was trained with. Raises CheckpointError where its fields are unknown."""
    try:
        return from_json(Architecture, metadata["architecture"])
    except ValueError as error:
        raise CheckpointError(f"a checkpoint of another version of embed: {error}; use that version") from error


def check_architecture(path: storage.Path, arch: Architecture) -> None:
    """Raise CheckpointError, naming every field that differs, where a checkpoint is of another architecture."""
    trained = read_architecture(read_metadata(path))
    fields = [field.name for field in dataclasses.fields(arch)]
    differing = [name for name in fields if getattr(trained, name) != getattr(arch, name)]
    if differing:
        listed = "; ".join(f"{name}: {getattr(trained, name)}, not {getattr(arch, name)}" for name in differing)
        raise CheckpointError(f"{path} is of another architecture: {listed}")


def load_preprocessor(path: storage.Path) -> Preprocessor:
    """Load the preprocessor a checkpoint was trained with.

    Raises CheckpointError where its tokenizer is not the one beside it, ValueError where that has ids without a row.
    """
    run, _ = locate(path)
    preprocessor = Preprocessor.load(run / "tokenizer.json", read_architecture(read_metadata(path)))
    check_input_spec(path, preprocessor)
    return preprocessor


def check_input_spec(path: storage.Path, preprocessor: Preprocessor) -> None:
    """Raise CheckpointError, naming every difference, where a checkpoint expects other inputs."""
    trained = _flatten(read_metadata(path)["input_spec"])
    wrong = {k: (trained.get(k), v) for k, v in _flatten(preprocessor.input_spec()).items() if trained.get(k) != v}
    if wrong:
        listed = "; ".join(f"{k}: checkpoint {a!r}, here {b!r}" for k, (a, b) in wrong.items())
        raise CheckpointError(f"{path} was trained with other inputs: {listed}")


def _flatten(spec: dict[str, Any]) -> dict[str, Any]:
    """Put the fields of the media format beside the others, as media.NAME."""
    media = {f"media.{name}": value for name, value in spec.get("media", {}).items()}
    return {name: value for name, value in spec.items() if name != "media"} | media


def read_lineage(path: storage.Path) -> dict[str, str]:
    """Return where a checkpoint comes from, for a table: what it started from or is averaged of, step, seed, code."""
    run, step = locate(path)
    metadata = read_metadata(path)
    soup = metadata.get("soup", {})
    mixed = zip(soup.get("weights", ()), soup.get("parents", ()), strict=True)
    parents = [f"{weight:g} × {_short_name(parent)}" for weight, parent in mixed]
    scores = [trial["score"] for trial in (*soup.get("trials", ()), soup) if "score" in trial]
    return {
        "checkpoint": run.name,
        "from": " + ".join(parents) or (_short_name(metadata["init"]) if metadata.get("init") else "the seed"),
        "step": str(step) if not soup else "",
        "seed": str(metadata.get("seed", "")),
        "dev score": f"{max(scores):.4f}" if scores else "",
        "code": str(metadata.get("code", "")),
    }


def _short_name(path: str) -> str:
    """Return a run's name, for one of its steps with its number: "finetune/300"."""
    *_, run, folder, name = ("", "", *pathlib.PurePath(path).parts)
    return f"{run}/{name}" if folder == "checkpoints" else name
