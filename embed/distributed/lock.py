"""A lock that keeps two processes from writing to one folder."""

import contextlib
import errno
import fcntl
import logging
import os
import pathlib
import socket
from collections.abc import Iterator

from embed.distributed.storage import Path, StorageError

log = logging.getLogger(__name__)
FILE_NAME = ".lock"
IS_LOCKED = (errno.EACCES, errno.EAGAIN)


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which is made. Raises StorageError where another process holds it.

    The lock ends with its process, however that ends, and child processes do not hold it. The same process must not
    take it twice at once. Buckets have no such lock: there, no process is kept out.
    """
    if not isinstance(folder, pathlib.Path):
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / FILE_NAME).open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's, no forked worker keeps it
        except OSError as error:
            if error.errno in IS_LOCKED:
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
