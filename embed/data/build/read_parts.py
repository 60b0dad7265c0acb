"""Read the parts of a source in worker processes: the records, facts about each, and what has to be quarantined.

The files of a part share a stem: `.array_record`; `.quarantine` (JSON lines); `.npz` (see `load_info`), written last;
while it is read, `.row`, the number of the current row; and `.crashes`, the rows that crashed a process, which the next
attempt skips.
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
from embed.data.build.dedup import NUM_HASHES, compute_signature, decode_parts
from embed.data.media.decode import MediaError
from embed.data.modalities import Content, modality_of
from embed.data.records import Record, RecordError, content_hash, to_bytes, validate
from embed.data.writing import write_encoded
from embed.distributed import storage

log = logging.getLogger(__name__)
MAX_CRASHES = 100  # of a part
LOG_SECONDS = 30.0  # between lines of progress
CODE_ERRORS = (
    TypeError,
    AttributeError,
    ImportError,
    NameError,
    AssertionError,
    SyntaxError,
)  # bugs in code, not faults of a file


class ReadError(ValueError):
    """A part that cannot be read at all; the message names it."""


@dataclasses.dataclass(frozen=True)
class PartJob:
    """A part of a split of a spec, and the path of its files."""

    spec: pathlib.Path
    split: str
    number: int
    stem: pathlib.Path
    near: bool  # whether to compute signatures

    def file(self, suffix: str) -> pathlib.Path:
        """Return the path of one of the part's files."""
        return self.stem.with_name(self.stem.name + suffix)


def load_info(job: PartJob) -> np.lib.npyio.NpzFile:
    """Load the facts about a part's n records.

    `sizes` i64[n] in bytes; `langs` U[n]; `modalities` U[n], like "text → image"; `labeled` bool[n]; of query and
    positive `hashes` u32[n,2,2] and `signatures` u32[n,2,128], or u32[n,2,0] without `near`.

    Raises FileNotFoundError where the part has not been read.
    """
    return np.load(job.file(".npz"), allow_pickle=False)


def read_part(job: PartJob) -> None:
    """Read a part. Raises what its spec or source raises before the first row."""
    infos: list[RecordInfo] = []

    with job.file(".quarantine").open("w", encoding="utf-8") as out:

        def iter_encoded() -> Iterator[bytes]:
            for where, info in _iter_record_infos(job):
                if isinstance(info, RecordInfo):
                    infos.append(dataclasses.replace(info, data=b""))
                    yield info.data
                else:
                    out.write(json.dumps({"where": where, "why": storage.short_message(info)}) + "\n")

        write_encoded(job.file(".array_record"), iter_encoded())
    with storage.atomic_write(job.file(".npz")) as file, file.open("wb") as binary:
        np.savez(
            binary,
            sizes=np.array([info.size for info in infos], np.int64),
            langs=np.array([info.lang for info in infos], np.str_),
            modalities=np.array([info.modalities for info in infos], np.str_),
            labeled=np.array([info.labeled for info in infos], bool),
            hashes=np.array([info.hashes for info in infos], np.uint32).reshape(-1, 2, 2),
            signatures=np.array([info.signatures for info in infos], np.uint32).reshape(
                len(infos), 2, NUM_HASHES if job.near else 0
            ),
        )
    job.file(".row").unlink()


@dataclasses.dataclass(frozen=True)
class RecordInfo:
    """A record that can be read and decoded, and facts about it."""

    data: bytes  # the encoded record
    size: int
    lang: str
    modalities: str
    labeled: bool
    hashes: np.ndarray  # u32[2,2]
    signatures: np.ndarray  # u32[2,128], or u32[2,0]


def _iter_record_infos(job: PartJob) -> Iterator[tuple[str, RecordInfo | Exception]]:
    """Yield every record of a part with its position, or the error of the record or its row."""
    part = _cached_spec(job.spec).splits[job.split][job.number]
    rows = enumerate(part.rows())
    skipped = set(crashing_rows(job))
    where = f"the first row of part {job.number} of {job.split}"
    with job.file(".row").open("w") as row_file:
        while True:
            try:
                number, (where, row) = next(rows)
            except StopIteration:
                return
            except Exception as error:  # of a truncated or corrupt file
                _raise_defect(error, where, job.spec)
                yield where, ValueError(f"the rows after it cannot be read: {storage.short_message(error)}")
                return
            row_file.seek(0)
            row_file.write(f"{number}\n")
            row_file.flush()
            if number in skipped:
                yield where, MediaError("it crashes the process that decodes it")
                continue
            for record in _iter_records(part, row, where, job.spec):
                yield where, record if isinstance(record, Exception) else _make_record_info(record, where, job.near)


def _iter_records(part: formats.SourcePart, row: Any, where: str, spec: pathlib.Path) -> Iterator[Record | Exception]:
    """Yield the records of a row, and the error that ends them early."""
    try:
        yield from part.records(row)
    except Exception as error:  # of the spec's function or a reader
        _raise_defect(error, where, spec)
        yield error


def _raise_defect(error: Exception, where: str, spec: pathlib.Path) -> None:
    """Raise the error again unless it is the row's fault: if storage is unreachable, or code has a bug.

    A TypeError or AttributeError in a line of the spec itself is the row's fault: it may contain an unexpected null.
    """
    is_row_fault = isinstance(error, TypeError | AttributeError) and _failing_file(error) == spec.resolve()
    if isinstance(error, storage.StorageError) or (isinstance(error, CODE_ERRORS) and not is_row_fault):
        error.add_note(f"while reading {where}")
        raise error


def _failing_file(error: Exception) -> pathlib.Path:
    """Return the file whose line raised an error."""
    return pathlib.Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()


def crashing_rows(job: PartJob) -> list[int]:
    """List the rows of a part that crashed a process."""
    return json.loads(job.file(".crashes").read_text()) if job.file(".crashes").exists() else []


@functools.lru_cache(1)
def _cached_spec(path: pathlib.Path) -> spec.Spec:
    return spec.load_spec(path)


def _make_record_info(record: Record, where: str, near: bool) -> RecordInfo | Exception:
    """Decode all media of a record and collect its facts; return the error where that fails."""
    try:
        record = validate(record, where)
        sides = record.query, record.positive
        signatures = np.array([compute_signature(side) for side in sides]) if near else np.zeros((2, 0))
        for content in record.negatives if near else (*sides, *record.negatives):
            decode_parts(content)
    except (RecordError, MediaError) as error:
        return error
    data = to_bytes(dataclasses.replace(record, provenance={"from": where} | record.provenance))
    hashes = np.stack([content_hash(side) for side in sides])
    modalities = " → ".join(filter(None, map(_modality_names, sides)))
    return RecordInfo(data, len(data), record.lang, modalities, bool(record.label), hashes, signatures)


def _modality_names(content: Content) -> str:
    return "+".join(dict.fromkeys(modality_of(part).name for part in content))


def read_parts(jobs: Sequence[PartJob], workers: int) -> None:
    """Read the parts that have not been read yet, `workers` at a time."""
    missing = [job for job in jobs if not job.file(".npz").exists()]
    for job in missing:
        job.stem.parent.mkdir(parents=True, exist_ok=True)
    is_terminal = sys.stderr.isatty()
    last_log = time.monotonic()
    with tqdm(
        total=len(jobs), initial=len(jobs) - len(missing), desc="reading", unit="part", disable=not is_terminal
    ) as bar:
        for count, job in enumerate(_iter_finished(missing, workers), len(jobs) - len(missing) + 1):
            bar.update()
            if not is_terminal and (time.monotonic() - last_log > LOG_SECONDS or count == len(jobs)):
                last_log = time.monotonic()
                log.info("%d of %d parts read, last of %s", count, len(jobs), job.split)


def _iter_finished(jobs: Sequence[PartJob], workers: int) -> Iterator[PartJob]:
    """Yield parts as they finish. Where a row crashes a process, the parts in progress are read again one by one."""
    remaining = dict.fromkeys(jobs)
    try:
        with _start_pool(workers) as pool:
            running = {pool.submit(read_part, job): job for job in jobs}
            for done in as_completed(running):
                if error := done.exception():
                    pool.shutdown(cancel_futures=True)
                    raise error
                del remaining[running[done]]
                yield running[done]
        return
    except BrokenProcessPool:
        interrupted = [job for job in remaining if job.file(".row").exists() or job.file(".npz").exists()]
    if not interrupted:
        raise ReadError("the processes that read the source crash before its first row: is there too little memory?")
    for job in interrupted:
        if not job.file(".npz").exists():
            _read_alone(job)
        del remaining[job]
        yield job
    yield from _iter_finished(list(remaining), workers)


def _start_pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, get_context("spawn"), _end_with_parent)


def _end_with_parent() -> None:
    """Exit when the parent process does: this process must not write beside a build that resumes."""
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _read_alone(job: PartJob) -> None:
    """Read a part in a process of its own, again without every row that crashes it."""
    for _ in range(MAX_CRASHES):
        try:
            with _start_pool(1) as pool:
                return pool.submit(read_part, job).result()
        except BrokenProcessPool:
            row = int(job.file(".row").read_text())
            log.warning("row %d of part %d of %s crashes the process that decodes it", row, job.number, job.split)
            job.file(".crashes").write_text(json.dumps([*crashing_rows(job), row]))
    raise ReadError(
        f"more than {MAX_CRASHES} rows of part {job.number} of {job.split} crash the process that decodes them"
    )
