"""Folders of this machine and of a bucket: a run or its data may be at `gs://BUCKET/...`, wherever a path is given.

A path of this machine is a pathlib.Path, one of a bucket an epath.Path, which has the same methods. An object of a
bucket is written whole or not at all, and never appended to.
"""

import contextlib
import errno
import fcntl
import functools
import hashlib
import importlib.util
import logging
import os
import pathlib
import re
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

import fsspec
import jax
from etils import epath

log = logging.getLogger(__name__)
Path: TypeAlias = pathlib.Path | epath.Path
SCHEME = re.compile(r"[a-z0-9]+:/(/?)")
LARGE_FILE = 2**24  # bytes; copies of less are not worth a line in the log
RETRY_SECONDS = 600.0  # seconds that a run waits for a bucket that does not answer
ATTEMPTS = 3  # to write to one that does
LOCK = ".lock"
LOCKED = (errno.EACCES, errno.EAGAIN)
DISK_FULL_CODES = (errno.ENOSPC, errno.EDQUOT)
DISK_FULL_MESSAGES = ("No space left on device", "Disk quota exceeded")  # of libraries that give no number
# A listing that is kept would hide what other hosts, or tensorstore in this one, have written since.
fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)


class StorageError(OSError):
    """A bucket or folder that cannot be used; the message names it and says what to check."""


class Unreachable(StorageError):
    """A bucket that does not answer or take what is written; the same command goes on from the last checkpoint."""


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


def check_access(path: Path) -> None:
    """Asks the bucket of a path for one name, if it is of a bucket: within seconds, an error that says what to check.

    Raises StorageError where there is no such bucket or no permission, Unreachable where it does not answer.
    """
    if not is_remote(path):
        return
    from google.api_core import exceptions as answers  # these come with gcsfs, which a path of a bucket needs
    from google.auth import exceptions as credentials
    from google.cloud.storage import Client

    bucket = path.parts[2]
    try:
        client = Client.create_anonymous_client() if "STORAGE_EMULATOR_HOST" in os.environ else Client(project=None)
        list(client.list_blobs(bucket, max_results=1, timeout=10, retry=None))
    except answers.NotFound as error:
        raise StorageError(f"{path}: there is no bucket {bucket}; check its name") from error
    except (answers.Forbidden, answers.Unauthorized, credentials.DefaultCredentialsError) as error:
        raise StorageError(
            f"{path}: no access to bucket {bucket} ({short_message(error)}); this account needs the roles Storage Object "
            "Admin and Storage Legacy Bucket Reader there: see gcloud auth application-default login"
        ) from error
    except (answers.GoogleAPICallError, credentials.GoogleAuthError, OSError) as error:
        raise Unreachable(
            f"{path}: bucket {bucket} does not answer ({type(error).__name__}); check the network and the login"
        ) from error


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """What is inside is the only process that writes to `folder`, which is made; raises StorageError where one does.

    The lock ends with its process, however that ends. Processes started within do not hold it, and the same process
    must not take it twice at once. A bucket has no such lock: there, nobody is kept away.
    """
    if not isinstance(folder, pathlib.Path):
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's, no forked worker keeps it
        except OSError as error:
            if error.errno in LOCKED:
                file.seek(0)
                raise StorageError(
                    f"{folder}: another process is writing there ({file.read(200) or 'it has just begun'}); wait for "
                    "it, end it, or give another folder"
                ) from error
            log.warning("%s: its disk has no locks (%s); keep other processes from writing there", folder, error)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


@contextlib.contextmanager
def translate_disk_full(path: Path) -> Iterator[None]:
    """What is inside writes to `path`. Raises StorageError, naming it, where the disk is full, whoever found out."""
    try:
        yield
    except Exception as error:
        told: BaseException | None = error
        while told is not None:
            if getattr(told, "errno", None) in DISK_FULL_CODES or any(sign in str(told) for sign in DISK_FULL_MESSAGES):
                raise StorageError(
                    f"{path}: no space is left on its disk, or no quota; free some, and the same command goes on from "
                    "the last checkpoint"
                ) from error
            told = told.__cause__ or told.__context__
        raise


def wait_for(path: Path) -> None:
    """Returns when the bucket of a path can be reached, asking after growing pauses. Raises as `check_access` does."""
    given_up, pause = time.monotonic() + RETRY_SECONDS, 1.0
    while True:
        try:
            return check_access(path)
        except Unreachable as error:
            if time.monotonic() + pause > given_up:
                raise
            log.warning("%s; asking again in %.0f s", error, pause)
        time.sleep(pause)
        pause = min(2 * pause, 60.0)


def with_retries(write: Callable[[], object], path: Path) -> None:
    """`write()`, which writes to `path`, and again where its bucket was lost meanwhile.

    Raises as `check_access` does, Unreachable where the last attempt fails too, what `write` raises on a local disk.
    """
    for attempt in range(1, ATTEMPTS + 1):
        wait_for(path)
        try:
            write()
            return
        except Exception as error:  # tensorstore, gcsfs and orbax have no common one for a connection
            if not is_remote(path):
                raise
            if attempt == ATTEMPTS or jax.process_count() > 1:  # hosts write together: one alone cannot try again
                raise Unreachable(f"{path} could not be written: {short_message(error)}") from error
            log.warning("%s could not be written (%s); trying again", path, short_message(error))


def one_line(error: BaseException) -> str:
    """The message of an error without its line breaks; its name where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def short_message(error: BaseException) -> str:
    """`one_line`, cut for a log."""
    return one_line(error)[:300]


def copy(file: pathlib.Path, path: Path) -> None:
    """Writes what a local file holds to `path`, over what is there."""
    epath.Path(file).copy(path, overwrite=True)


def move_into(file: pathlib.Path, path: Path) -> None:
    """Moves a file that is whole, on the disk of a local `path`, to it; to a bucket it is copied."""
    if isinstance(path, pathlib.Path):
        file.replace(path)
    else:
        copy(file, path)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[pathlib.Path]:
    """A local file to write, which becomes `path` where the block ends without an error: whole or not at all."""
    if isinstance(path, pathlib.Path):
        partial = path.with_suffix(".partial")
        yield partial
        partial.replace(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield (partial := pathlib.Path(folder, path.name))
        copy(partial, path)


def cache() -> pathlib.Path:
    """This host's folder for what can be made again: $EMBED_CACHE, or ~/.cache/embed. Nothing in it is deleted."""
    return pathlib.Path(os.environ.get("EMBED_CACHE") or pathlib.Path.home() / ".cache" / "embed")


def local(path: Path) -> pathlib.Path:
    """The file itself, or a copy of an object of a bucket, made where this host has none yet.

    Copies lie in `cache` by the object's name, size and generation, so that another object is never taken for it.
    Raises FileNotFoundError where there is no such object, Unreachable where it cannot be read.
    """
    return path if isinstance(path, pathlib.Path) else _copied(str(path))


@functools.lru_cache(2**20)
def _copied(name: str) -> pathlib.Path:
    try:
        return _copy_of(name)
    except FileNotFoundError:
        raise
    except Exception as error:  # gcsfs has tried some times by now, and has no class of its own for it
        raise Unreachable(f"{name} could not be read: {short_message(error)}") from error


def _copy_of(name: str) -> pathlib.Path:
    bucket = fsspec.filesystem("gcs")
    about = bucket.info(name)
    identity = f"{about['name']} {about['size']} {about.get('generation')}"
    copy = cache() / hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
    if not copy.exists():
        if about["size"] >= LARGE_FILE:
            log.info("copying %s, %.0f MiB, to %s", name, about["size"] / 2**20, copy)
        cache().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache()) as folder:  # of this process alone: another may copy it as well
            bucket.get_file(name, f"{folder}/partial")
            if (size := os.path.getsize(f"{folder}/partial")) != about["size"]:
                raise OSError(f"{size} of {about['size']} bytes arrived")
            os.replace(f"{folder}/partial", copy)
    return copy
