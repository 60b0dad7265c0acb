"""Where records are read from, by index: what a task reads. A split is a JSONL file, an ArrayRecord file, or shards."""

import dataclasses
import glob
import logging
import os
import pathlib
import re
import tempfile
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from grain.sources import ArrayRecordDataSource

from embed.data.records import (
    Record,
    RecordError,
    from_bytes,
    parse_graded,
    parse_item,
    parse_line,
    to_bytes,
    validate,
)
from embed.data.textfile import decode_text, wide_encoding
from embed.distributed import storage

log = logging.getLogger(__name__)
SHARD = 2**29  # bytes of a shard, about
BLOCK = 2**26  # bytes of a JSONL file that are looked at together
Parse = Callable[[bytes, storage.Path, str], Record]  # a line, the folder of its media, where it stands
NAME = re.compile(r"-(\d{5})-of-(\d{5})\.array_record")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
NO_SPLIT = "quarantine"  # what a build left out


class Source(Protocol):
    """Random access to records; what a task reads."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: Any, /) -> Record: ...


class JsonlSource:
    """Records of `folder/split.jsonl`, by line number. Lines are indexed once, 16 bytes each in memory; media are read
    when a record is.

    Raises RecordError for a file in UTF-16 or UTF-32, whose bytes have other lines.
    """

    def __init__(self, folder: str | os.PathLike, split: str, parse: Parse = parse_line):
        self.folder = storage.path(folder)
        self.path = self.folder / f"{split}.jsonl"
        self.lines, self.parse = storage.local(self.path), parse
        with self.lines.open("rb") as file:
            if wide := wide_encoding(file.read(4)):  # two characters of JSON are ASCII
                raise RecordError(
                    f"{self.path} is in {wide}; convert it: iconv -f {wide} -t UTF-8 {self.path.name} > OTHER"
                )
        self.files = [self.lines]
        spans = list(_spans(self.lines))
        self.numbers, self.spans = (np.concatenate(found) for found in zip(*spans, strict=True))

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, index: int) -> Record:
        start, stop = self.spans[index].tolist()
        with self.lines.open("rb") as file:
            file.seek(start)
            return self.parse(file.read(stop - start), self.folder, f"{self.path}:{self.numbers[index]}")


def _spans(path: os.PathLike) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (i32[n] the numbers, from 1, i64[n,2] start and stop in bytes) of the lines that are not blank."""
    yield np.zeros(0, np.int32), np.zeros((0, 2), np.int64)
    start, number, visible = 0, 1, 0  # of a line that goes on in the next block: where it starts, its visible bytes
    at = 0
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            data = np.frombuffer(block, np.uint8)
            ends = np.flatnonzero(data == ord("\n"))
            seen = np.cumsum(data > ord(" "))[ends] + visible
            visible += int(np.count_nonzero(data > ord(" "))) - (int(seen[-1]) if len(ends) else 0)
            stops = at + ends + 1
            bounds = np.concatenate([[start], stops])
            filled = np.diff(seen, prepend=0) > 0
            yield (
                (number + np.flatnonzero(filled)).astype(np.int32),
                np.stack([bounds[:-1], bounds[1:]], axis=1)[filled].astype(np.int64),
            )
            start, number, at = int(bounds[-1]), number + len(ends), at + len(block)
    if visible:
        yield np.array([number], np.int32), np.array([[start, at]], np.int64)


class ArrayRecordSource:
    """Records of an ArrayRecord file (or a list of shards), by index; those of a bucket are copied first."""

    def __init__(self, paths: str | os.PathLike | Sequence[str | os.PathLike]):
        """Raises RecordError, naming the file, where one is broken or of another kind."""
        self.names = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        self.files = [storage.local(storage.path(name)) for name in self.names]
        try:
            self.source = ArrayRecordDataSource([str(file) for file in self.files])
        except RuntimeError as error:  # the library has none of its own, and does not say which file
            broken = next(name for name, file in zip(self.names, self.files, strict=True) if not _is_array_record(file))
            raise RecordError(f"{broken}: no ArrayRecord file, or one that is cut short: {error}") from error

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        where = f"{self.names[0]}{', ...' * (len(self.names) > 1)}[{index}]"
        try:
            data = self.source[int(index)]
        except RuntimeError as error:
            raise RecordError(f"{where}: its bytes cannot be read: {error}") from error
        return from_bytes(data, where)


def _is_array_record(file: os.PathLike) -> bool:
    try:
        return len(ArrayRecordDataSource([str(file)])) >= 0
    except RuntimeError:
        return False


@dataclasses.dataclass(frozen=True)
class TfdsSource:
    """Any random-access TFDS split as records: `tfds.data_source(name, split=...)` and a function from its examples."""

    examples: Sequence[dict[str, Any]]
    to_record: Callable[[dict[str, Any]], Record]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Record:
        return validate(self.to_record(self.examples[int(index)]), f"example {index}")


def parser_for(split: str) -> Parse:
    """What reads a line of a split: items of a `corpus` or `queries`, graded pairs of `sts...`, else pairs."""
    if split in ("corpus", "queries"):
        return parse_item
    return parse_graded if split.startswith("sts") else parse_line


def open_split(folder: str | os.PathLike, split: str, parse: Parse | None = None) -> Source:
    """The records of `folder/split.array_record`, of its shards `split-00000-of-00008.array_record`, ... or of
    `folder/split.jsonl`, whose lines `parse` reads, or the parser of its name.

    Raises FileNotFoundError, naming them, or where a shard is missing; RecordError for a file that is broken.
    """
    folder = storage.path(folder)
    if (folder / f"{split}.array_record").exists():
        return ArrayRecordSource(folder / f"{split}.array_record")
    if shards := shards_of(folder, split):
        return ArrayRecordSource(shards)
    if (folder / f"{split}.jsonl").exists():
        return JsonlSource(folder, split, parse or parser_for(split))
    raise FileNotFoundError(
        f"no {split}.array_record, no shards of it and no {split}.jsonl in {folder}; build the corpora or fix the path"
    )


def shards_of(folder: storage.Path, split: str) -> list[storage.Path]:
    """The shards of a split, in order; none where there are none. Raises FileNotFoundError where some are missing."""
    shards = sorted(
        p for p in folder.glob(f"{glob.escape(split)}-*.array_record") if NAME.fullmatch(p.name.removeprefix(split))
    )
    if shards and [p.name for p in shards] != [shard_name(split, i, len(shards)) for i in range(len(shards))]:
        raise FileNotFoundError(
            f"{folder}: the shards of {split} are not those of one whole set: {', '.join(p.name for p in shards)[:200]}"
        )
    return shards


def shard_name(split: str, number: int, of: int) -> str:
    """The name of one of the shards of a split."""
    return f"{split}-{number:05}-of-{of:05}.array_record"


def splits_in(folder: storage.Path) -> list[str]:
    """The names of the splits that `open_split` finds in a folder, in order; what a build left out is none."""
    names = [path.name for form in ("jsonl", "array_record") for path in folder.glob(f"*.{form}")]
    splits = {NAME.sub("", name).removesuffix(".array_record").removesuffix(".jsonl") for name in names}
    return sorted(splits - {NO_SPLIT})


def write(path: storage.Path, records: Iterable[Record]) -> int:
    """Writes records to an ArrayRecord file, whole or not at all; returns their number."""
    return write_bytes(path, map(to_bytes, records))


def write_bytes(path: storage.Path, records: Iterable[bytes]) -> int:
    """`write` for records that are bytes already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with storage.atomic_write(path) as file:
        writer = ArrayRecordWriter(str(file), "group_size:1")
        for record in records:
            writer.write(record)
            count += 1
        writer.close()
    return count


def write_shards(folder: storage.Path, split: str, records: Iterable[bytes]) -> list[storage.Path]:
    """Writes a split in shards of about SHARD bytes, which are there when all are; returns them.

    Shards that the split had before are deleted then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=None if storage.is_remote(folder) else folder) as drafts:
        files: list[pathlib.Path] = []
        writer, room = None, 0
        for record in records:
            if writer is None or room < len(record):
                writer, room = _next(writer, files, drafts), SHARD
            writer.write(record)
            room -= len(record)
        (writer or _next(None, files, drafts)).close()
        for old in folder.glob(f"{glob.escape(split)}-*.array_record"):
            if NAME.fullmatch(old.name.removeprefix(split)):
                old.unlink()
        paths = [folder / shard_name(split, i, len(files)) for i in range(len(files))]
        for file, path in zip(files, paths, strict=True):
            storage.move_into(file, path)
    return paths


def _next(writer: ArrayRecordWriter | None, files: list[pathlib.Path], folder: str) -> ArrayRecordWriter:
    if writer is not None:
        writer.close()
    files.append(pathlib.Path(folder, f"{len(files)}.array_record"))
    return ArrayRecordWriter(str(files[-1]), "group_size:1")


def read_records(source: Source) -> Iterator[Record]:
    """Every record in order. Raises RecordError at the first that cannot be read."""
    return (source[i] for i in range(len(source)))


def read_qrels(path: storage.Path) -> Iterator[tuple[str, str, str, int]]:
    """The judgements of a file: (where it stands, query id, document id, grade).

    A line is BEIR's (query, document, grade, between tabs) or TREC's (query, iteration, document, grade), between tabs
    or spaces. A first line without a grade is a header. A grade is cut to a whole number, as trec_eval does, which is
    logged where it changes one. Raises RecordError, naming file and line.
    """
    try:
        lines = decode_text(path.read_bytes()).split("\n")
    except ValueError as error:
        raise RecordError(f"{path}: {error}") from error
    cut: list[str] = []  # logged as information: the workers of a build, which read this again, have no such log
    first = next((number for number, line in enumerate(lines, start=1) if line.strip()), 0)
    for number, line in enumerate(lines, start=1):
        fields = line.strip("\r").split("\t") if "\t" in line else line.split()
        if not line.strip() or (number == first and len(fields) in (3, 4) and not NUMBER.fullmatch(fields[-1].strip())):
            continue
        if len(fields) not in (3, 4) or not NUMBER.fullmatch(fields[-1].strip()):
            raise RecordError(
                f"{path}:{number}: expected query-id<TAB>corpus-id<TAB>relevance (a number), or TREC's four columns, "
                f"got {line[:80]!r}"
            )
        grade = float(fields[-1])
        if not abs(grade) < 2**31:
            raise RecordError(f"{path}:{number}: relevance {fields[-1].strip()} is out of range")
        if grade != int(grade):
            cut.append(f"line {number}: {fields[-1].strip()} is {int(grade)}")
        yield f"{path}:{number}", fields[0], fields[-2], int(grade)
    if cut:
        log.info("%s: %d grades are not whole and are cut, as trec_eval does; %s", path, len(cut), cut[0])


def read_judgements(path: storage.Path, queries: Container[str], corpus: Container[str]) -> list[tuple[str, str, int]]:
    """The judgements (query id, document id, grade) whose two ids are in the files; others are counted in the log.

    Raises RecordError as `read_qrels` does.
    """
    known: list[tuple[str, str, int]] = []
    dangling: list[str] = []
    for where, query, document, grade in read_qrels(path):
        if query in queries and document in corpus:
            known.append((query, document, grade))
        else:
            missing = f"query {query!r}" if query not in queries else f"document {document!r}"
            dangling.append(f"{where}: no {missing}")
    if dangling:
        total = len(known) + len(dangling)
        log.warning("%d of %d judgements are left out; the first: %s", len(dangling), total, dangling[0])
    return known
