"""Folders of this machine and of a bucket: a run or its data may be at `gs://BUCKET/...`, wherever a path is given.

A path of this machine is a pathlib.Path, one of a bucket an epath.Path, which has the same methods. An object of a
bucket is written whole or not at all, and never appended to.
"""

import contextlib
import functools
import hashlib
import importlib.util
import logging
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator
from typing import TypeAlias

import fsspec
from etils import epath

log = logging.getLogger(__name__)
Path: TypeAlias = pathlib.Path | epath.Path
SCHEME = re.compile(r"[a-z0-9]+:/(/?)")
LARGE = 2**24  # bytes; copies of less are not worth a line in the log
# A listing that is kept would hide what other hosts, or tensorstore in this one, have written since.
fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)


class StorageError(OSError):
    """A bucket that cannot be used; the message names it and says what to check."""


def path(name: str | os.PathLike) -> Path:
    """The path of that name. Raises StorageError for a scheme other than gs://, or where gcsfs is not installed."""
    if (found := SCHEME.match(os.fspath(name))) is None:
        return pathlib.Path(name)
    if found[0] == "gs:/":
        raise StorageError(f"{name}: a slash is missing; give a bucket as a string, gs://BUCKET/...")
    if found[0] != "gs://":
        raise StorageError(f"{name}: of remote folders only those of Google Cloud Storage, gs://BUCKET/..., are read")
    if importlib.util.find_spec("gcsfs") is None:
        raise StorageError(f"{name} needs gcsfs, which is not installed: pip install gcsfs")
    return epath.Path(name)


def is_remote(path: Path) -> bool:
    """Whether a path is one of a bucket."""
    return isinstance(path, epath.Path)


def absolute(path: Path) -> str:
    """The name of a path whatever the present folder, links followed; a bucket has neither."""
    return str(path if is_remote(path) else path.resolve())


@contextlib.contextmanager
def whole(path: Path) -> Iterator[pathlib.Path]:
    """A local file to write, which becomes `path` where the block ends without an error: whole or not at all."""
    if isinstance(path, pathlib.Path):
        partial = path.with_suffix(".partial")
        yield partial
        partial.replace(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        written = epath.Path(folder, path.name)
        yield pathlib.Path(written)
        written.copy(path, overwrite=True)


def local(path: Path) -> pathlib.Path:
    """The file itself, or a copy of an object of a bucket, made where this host has none yet.

    Copies lie in $EMBED_CACHE (~/.cache/embed) by the object's name, size and generation, so that another object is
    never taken for it; none is deleted. Raises FileNotFoundError where there is no such object.
    """
    return path if isinstance(path, pathlib.Path) else _copied(str(path))


@functools.lru_cache(2**20)
def _copied(name: str) -> pathlib.Path:
    bucket = fsspec.filesystem("gcs")
    about = bucket.info(name)
    identity = f"{about['name']} {about['size']} {about.get('generation')}"
    cache = pathlib.Path(os.environ.get("EMBED_CACHE") or pathlib.Path.home() / ".cache" / "embed")
    copy = cache / hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
    if not copy.exists():
        if about["size"] >= LARGE:
            log.info("copying %s, %.0f MiB, to %s", name, about["size"] / 2**20, copy)
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:  # of this process alone: another may copy it as well
            bucket.get_file(name, f"{folder}/partial")
            if (size := os.path.getsize(f"{folder}/partial")) != about["size"]:
                raise StorageError(f"{name}: {size} of {about['size']} bytes arrived; start again")
            os.replace(f"{folder}/partial", copy)
    return copy
