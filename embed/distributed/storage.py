"""Local folders and buckets: wherever a path is given, it may be `gs://BUCKET/...`.

A local path is a pathlib.Path, a bucket's an epath.Path, which has the same methods. An object of a bucket is written
as a whole or not at all, and never appended to.
"""

import contextlib
import errno
import functools
import hashlib
import importlib.util
import logging
import os
import pathlib
import re
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
LARGE_FILE = 2**24  # bytes; copies of smaller files are not logged
RETRY_SECONDS = 600.0  # seconds that a run waits for a bucket that does not answer
ATTEMPTS = 3  # to write to a bucket that answers
DISK_FULL_CODES = (errno.ENOSPC, errno.EDQUOT)
DISK_FULL_MESSAGES = ("No space left on device", "Disk quota exceeded")  # of libraries that set no errno
# A cached listing would hide what other hosts, or tensorstore in this one, have written since.
fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)


class StorageError(OSError):
    """A bucket or folder cannot be used; the message names it and says what to check."""


class Unreachable(StorageError):
    """A bucket does not answer or accept writes; the same command continues from the last checkpoint."""


def path(name: str | os.PathLike) -> Path:
    """Return the path of a name. Raises StorageError for a scheme other than gs://, or where gcsfs is not installed."""
    scheme = SCHEME.match(os.fspath(name))
    if scheme is None:
        return pathlib.Path(name)
    if scheme[0] == "gs:/":
        raise StorageError(f"{name}: a slash is missing; give a bucket as a string, gs://BUCKET/...")
    if scheme[0] != "gs://":
        raise StorageError(f"{name}: the only remote folders are those of Google Cloud Storage, gs://BUCKET/...")
    if importlib.util.find_spec("gcsfs") is None:
        raise StorageError(f"{name} needs gcsfs, which is not installed: pip install gcsfs")
    return epath.Path(name)


def is_remote(path: Path) -> bool:
    """Return whether a path is in a bucket."""
    return isinstance(path, epath.Path)


def absolute(path: Path) -> str:
    """Return the absolute name of a path, links resolved."""
    return str(path if is_remote(path) else path.resolve())


def check_access(path: Path) -> None:
    """Ask a path's bucket, if it is in one, for one name: an error comes within seconds and says what to check.

    Raises StorageError where the bucket does not exist or may not be used, Unreachable where it does not answer.
    """
    if not is_remote(path):
        return
    from google.api_core import exceptions as answers  # these come with gcsfs
    from google.auth import exceptions as credentials
    from google.cloud.storage import Client

    bucket = path.parts[2]
    try:
        client = Client.create_anonymous_client() if "STORAGE_EMULATOR_HOST" in os.environ else Client(project=None)
        list(client.list_blobs(bucket, max_results=1, timeout=10, retry=None))
    except answers.NotFound as error:
        raise StorageError(f"{path}: bucket {bucket} does not exist; check its name") from error
    except (answers.Forbidden, answers.Unauthorized, credentials.DefaultCredentialsError) as error:
        raise StorageError(
            f"{path}: no access to bucket {bucket} ({short_message(error)}); this account needs its roles Storage "
            "Object Admin and Storage Legacy Bucket Reader: see gcloud auth application-default login"
        ) from error
    except (answers.GoogleAPICallError, credentials.GoogleAuthError, OSError) as error:
        raise Unreachable(
            f"{path}: bucket {bucket} does not answer ({type(error).__name__}); check the network and the login"
        ) from error


@contextlib.contextmanager
def translate_disk_full(path: Path) -> Iterator[None]:
    """Raise StorageError, naming `path`, for any error inside that a full disk caused."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if _is_disk_full(cause):
                raise StorageError(
                    f"{path}: no space is left on its disk, or no quota; free some, and the same command continues "
                    "from the last checkpoint"
                ) from error
            cause = cause.__cause__ or cause.__context__
        raise


def _is_disk_full(error: BaseException) -> bool:
    is_code = getattr(error, "errno", None) in DISK_FULL_CODES
    return is_code or any(message in str(error) for message in DISK_FULL_MESSAGES)


def wait_for(path: Path) -> None:
    """Return when a path's bucket can be reached, asking after growing pauses. Raises as `check_access` does."""
    deadline, pause = time.monotonic() + RETRY_SECONDS, 1.0
    while True:
        try:
            return check_access(path)
        except Unreachable as error:
            if time.monotonic() + pause > deadline:
                raise
            log.warning("%s; asking again in %.0f s", error, pause)
        time.sleep(pause)
        pause = min(2 * pause, 60.0)


def with_retries(write: Callable[[], object], path: Path) -> None:
    """Call `write()`, which writes to `path`, and call it again where the bucket was lost meanwhile.

    Raises as `check_access` does, Unreachable where the last attempt fails too, and what `write` raises on local disks.
    """
    for attempt in range(1, ATTEMPTS + 1):
        wait_for(path)
        try:
            write()
            return
        except Exception as error:  # tensorstore, gcsfs and orbax share no class for lost connections
            if not is_remote(path):
                raise
            if attempt == ATTEMPTS or jax.process_count() > 1:  # hosts write together: none can retry alone
                raise Unreachable(f"{path} could not be written: {short_message(error)}") from error
            log.warning("%s could not be written (%s); trying again", path, short_message(error))


def one_line(error: BaseException) -> str:
    """Return an error's message in one line; the name of its class where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def short_message(error: BaseException) -> str:
    """Return `one_line`, truncated for a log."""
    return one_line(error)[:300]


def copy(file: pathlib.Path, path: Path) -> None:
    """Copy a local file to `path`, which is overwritten."""
    epath.Path(file).copy(path, overwrite=True)


def move_into(file: pathlib.Path, path: Path) -> None:
    """Move a complete file to `path`: renamed on the same local disk, copied into a bucket."""
    if isinstance(path, pathlib.Path):
        file.replace(path)
    else:
        copy(file, path)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[pathlib.Path]:
    """Yield a local file to write, which replaces `path` as a whole if the block ends without an error."""
    if isinstance(path, pathlib.Path):
        partial = path.with_suffix(".partial")
        yield partial
        partial.replace(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield (partial := pathlib.Path(folder, path.name))
        copy(partial, path)


def cache() -> pathlib.Path:
    """Return this host's cache folder, $EMBED_CACHE, else embed in $XDG_CACHE_HOME or ~/.cache; never deleted from."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(os.environ.get("EMBED_CACHE") or pathlib.Path(base, "embed"))


def local(path: Path) -> pathlib.Path:
    """Return a local file itself, or this host's cached copy of a bucket's object.

    Copies are named by the object's name, size and generation, so that another version is never taken for it.
    Raises FileNotFoundError where the object does not exist, Unreachable where it cannot be read.
    """
    return path if isinstance(path, pathlib.Path) else _cached_copy(str(path))


@functools.lru_cache(2**20)
def _cached_copy(name: str) -> pathlib.Path:
    try:
        return _download(name)
    except FileNotFoundError:
        raise
    except Exception as error:  # gcsfs has retried by now, and has no class of its own for it
        raise Unreachable(f"{name} could not be read: {short_message(error)}") from error


def _download(name: str) -> pathlib.Path:
    bucket = fsspec.filesystem("gcs")
    info = bucket.info(name)
    identity = f"{info['name']} {info['size']} {info.get('generation')}"
    copy = cache() / hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
    if copy.exists():
        return copy
    if info["size"] >= LARGE_FILE:
        log.info("copying %s, %.0f MiB, to %s", name, info["size"] / 2**20, copy)
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache()) as folder:  # of this process alone: another may copy it as well
        partial = pathlib.Path(folder, "partial")
        bucket.get_file(name, str(partial))
        size = partial.stat().st_size
        if size != info["size"]:
            raise OSError(f"{size} of {info['size']} bytes arrived")
        partial.replace(copy)
    return copy
