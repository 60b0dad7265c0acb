"""One part of a source, read by one process: its records, what is known of each, and what had to be left out.

A part's files have one stem: `.array_record`, `.quarantine` (JSON lines), `.npz` (see `load_info`), which is written last,
and, while it is read, `.at`, the number of the row: one that ends the process is left out by the next (`.deadly`).
"""

import dataclasses
import functools
import json
import logging
import os
import pathlib
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from typing import Any

import numpy as np
from tqdm import tqdm

from embed.data.build import formats, spec
from embed.data.build.dedup import NUM_HASHES, decode_parts, signature
from embed.data.media.decode import MediaError
from embed.data.modalities import Content, modality_of
from embed.data.records import Record, RecordError, content_hash, to_bytes, validate
from embed.data.writing import write_encoded
from embed.distributed import storage

log = logging.getLogger(__name__)
CRASHES = 100  # rows of a part that may end a process
LOG_SECONDS = 30.0  # seconds between lines in a log
DEFECTS = (TypeError, AttributeError, ImportError, NameError, AssertionError, SyntaxError)  # of code, not of a file


class ReadError(ValueError):
    """A part that cannot be read at all; the message says which."""


@dataclasses.dataclass(frozen=True)
class PartJob:
    """A part of a split of a spec, and where its files go."""

    spec: pathlib.Path
    split: str
    number: int
    stem: pathlib.Path
    near: bool  # whether signatures are made

    def file(self, suffix: str) -> pathlib.Path:
        """One of the part's files."""
        return self.stem.with_name(self.stem.name + suffix)


def load_info(job: PartJob) -> np.lib.npyio.NpzFile:
    """What is known of the records of a part, each an element: `sizes` i64[n] in bytes, `langs` and `kinds`
    ("text → image") U[n], `labelled` bool[n], and of query and positive `hashes` u32[n,2,2], `signatures` u32[n,2,128],
    or u32[n,2,0].

    Raises FileNotFoundError where the part has not been read.
    """
    return np.load(job.file(".npz"), allow_pickle=False)


def read_part(job: PartJob) -> None:
    """Reads a part. Raises what its spec or source raises before the first row."""
    looks: list[RecordInfo] = []

    with job.file(".quarantine").open("w", encoding="utf-8") as out:

        def kept() -> Iterator[bytes]:
            for where, look in _record_infos(job):
                if isinstance(look, RecordInfo):
                    looks.append(dataclasses.replace(look, data=b""))
                    yield look.data
                else:
                    out.write(json.dumps({"where": where, "why": storage.short_message(look)}) + "\n")

        write_encoded(job.file(".array_record"), kept())
    with storage.atomic_write(job.file(".npz")) as file, file.open("wb") as binary:
        np.savez(
            binary,
            sizes=np.array([look.size for look in looks], np.int64),
            langs=np.array([look.lang for look in looks], np.str_),
            kinds=np.array([look.kind for look in looks], np.str_),
            labelled=np.array([look.labelled for look in looks], bool),
            hashes=np.array([look.hashes for look in looks], np.uint32).reshape(-1, 2, 2),
            signatures=np.array([look.signatures for look in looks], np.uint32).reshape(
                len(looks), 2, NUM_HASHES if job.near else 0
            ),
        )
    job.file(".at").unlink()


@dataclasses.dataclass(frozen=True)
class RecordInfo:
    """A record that can be read and decoded, in bytes, and what is known of it."""

    data: bytes
    size: int
    lang: str
    kind: str
    labelled: bool
    hashes: np.ndarray  # u32[2,2]
    signatures: np.ndarray  # u32[2,128], or u32[2,0]


def _record_infos(job: PartJob) -> Iterator[tuple[str, RecordInfo | Exception]]:
    """Yields every record of a part, or what is wrong with it or its row, with where it stands."""
    part = _spec(job.spec).splits[job.split][job.number]
    rows, deadly = enumerate(part.rows()), set(crashing_rows(job))
    where = f"the first row of part {job.number} of {job.split}"
    with job.file(".at").open("w") as at:
        while True:
            try:
                number, (where, row) = next(rows)
            except StopIteration:
                return
            except Exception as error:  # of a file that is cut short or broken in its middle
                _raise_defect(error, where, job.spec)
                yield where, ValueError(f"what comes after it cannot be read: {storage.short_message(error)}")
                return
            at.seek(0)
            at.write(f"{number}\n")
            at.flush()
            if number in deadly:
                yield where, MediaError("it ends the process that decodes it")
                continue
            for record in _records(part, row, where, job.spec):
                yield where, record if isinstance(record, Exception) else _record_info(record, where, job.near)


def _records(part: formats.Part, row: Any, where: str, spec: pathlib.Path) -> Iterator[Record | Exception]:
    """The records of a row, and what ends them early."""
    try:
        yield from part.records(row)
    except Exception as error:  # of a spec's own function or a reader
        _raise_defect(error, where, spec)
        yield error


def _raise_defect(error: Exception, where: str, spec: pathlib.Path) -> None:
    """Raises again what says nothing of a row: a bucket that is lost, or a fault in code. A line of the spec itself may
    meet a row that it was not written for, with a null in it, and then has a TypeError or an AttributeError too."""
    of_row = isinstance(error, TypeError | AttributeError) and _raised_in(error) == spec.resolve()
    if isinstance(error, storage.StorageError) or (isinstance(error, DEFECTS) and not of_row):
        error.add_note(f"while reading {where}")
        raise error


def _raised_in(error: Exception) -> pathlib.Path:
    """The file whose line raised an error."""
    return pathlib.Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()


def crashing_rows(job: PartJob) -> list[int]:
    """The rows of a part that have ended a process."""
    return json.loads(job.file(".deadly").read_text()) if job.file(".deadly").exists() else []


@functools.lru_cache(1)
def _spec(path: pathlib.Path) -> spec.Spec:
    return spec.load(path)


def _record_info(record: Record, where: str, near: bool) -> RecordInfo | Exception:
    """Decodes every medium; what is wrong with it where one cannot be."""
    try:
        record = validate(record, where)
        sides = record.query, record.positive
        signatures = np.array([signature(side) for side in sides]) if near else np.zeros((2, 0))
        for content in record.negatives if near else (*sides, *record.negatives):
            decode_parts(content)
    except (RecordError, MediaError) as error:
        return error
    data = to_bytes(dataclasses.replace(record, provenance={"from": where} | record.provenance))
    hashes = np.stack([content_hash(side) for side in sides])
    kind = " → ".join(filter(None, map(_kind, sides)))
    return RecordInfo(data, len(data), record.lang, kind, bool(record.label), hashes, signatures)


def _kind(content: Content) -> str:
    return "+".join(dict.fromkeys(modality_of(part).name for part in content))


def read_parts(jobs: Sequence[PartJob], workers: int) -> None:
    """Reads the parts that have not been read, `workers` at a time."""
    missing = [job for job in jobs if not job.file(".npz").exists()]
    for job in missing:
        job.stem.parent.mkdir(parents=True, exist_ok=True)
    hidden, told = not sys.stderr.isatty(), time.monotonic()
    with tqdm(total=len(jobs), initial=len(jobs) - len(missing), desc="reading", unit="part", disable=hidden) as bar:
        for count, job in enumerate(_finished(missing, workers), len(jobs) - len(missing) + 1):
            bar.update()
            if hidden and (time.monotonic() - told > LOG_SECONDS or count == len(jobs)):
                told = time.monotonic()
                log.info("%d of %d parts read, last of %s", count, len(jobs), job.split)


def _finished(jobs: Sequence[PartJob], workers: int) -> Iterator[PartJob]:
    """Yields parts as they have been read; where a row ends a process, the parts under way are read again alone."""
    left = dict.fromkeys(jobs)
    try:
        with _pool(workers) as pool:
            running = {pool.submit(read_part, job): job for job in jobs}
            for done in as_completed(running):
                if error := done.exception():
                    pool.shutdown(cancel_futures=True)
                    raise error
                del left[running[done]]
                yield running[done]
        return
    except BrokenProcessPool:
        begun = [job for job in left if job.file(".at").exists() or job.file(".npz").exists()]
    if not begun:
        raise ReadError("the processes that read a source end before its first row; is there too little memory?")
    for job in begun:
        if not job.file(".npz").exists():
            _alone(job)
        del left[job]
        yield job
    yield from _finished(list(left), workers)


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, get_context("spawn"), _end_with_parent)


def _end_with_parent() -> None:
    """Ends this process when the one that started it has: else it would write on beside the build that goes on."""
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _alone(job: PartJob) -> None:
    """Reads a part in processes of its own, without the rows that end them."""
    for _ in range(CRASHES):
        try:
            with _pool(1) as pool:
                return pool.submit(read_part, job).result()
        except BrokenProcessPool:
            row = int(job.file(".at").read_text())
            log.warning("row %d of part %d of %s ends the process that decodes it", row, job.number, job.split)
            job.file(".deadly").write_text(json.dumps([*crashing_rows(job), row]))
    raise ReadError(f"more than {CRASHES} rows of part {job.number} of {job.split} end the process that decodes them")
