"""Sources of records, read by index. A split is a JSONL file, an ArrayRecord file, or shards of ArrayRecord files."""

import dataclasses
import glob
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from grain.sources import ArrayRecordDataSource

from embed.data.jsonl import parse_graded, parse_item, parse_line
from embed.data.records import Record, RecordError, from_bytes, validate
from embed.data.textfile import wide_encoding
from embed.distributed import storage

log = logging.getLogger(__name__)
BLOCK_BYTES = 2**26  # bytes of a JSONL file that are indexed at a time
Parse = Callable[[bytes, storage.Path, str], Record]  # a line, the folder of its media, its file and number
SHARD_SUFFIX = re.compile(r"-(\d{5})-of-(\d{5})\.array_record")
SIMILARITY_SPLITS = {"train": "sts_train", "dev": "sts_dev", "test": "sts"}  # split -> that of its graded pairs
QUARANTINE = "quarantine"  # what a build rejected: no split


class Source(Protocol):
    """Random access to records."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: Any, /) -> Record: ...


class JsonlSource:
    """Records of `folder/split.jsonl`, by line. Media are read when a record is; the index takes 16 bytes per line."""

    def __init__(self, folder: str | os.PathLike, split: str, parse: Parse = parse_line):
        """Raises RecordError for a file in UTF-16 or UTF-32, whose bytes have other lines."""
        self.folder = storage.path(folder)
        self.path = self.folder / f"{split}.jsonl"
        self.local, self.parse = storage.local(self.path), parse
        with self.local.open("rb") as file:
            if wide := wide_encoding(file.read(4)):  # two characters of JSON are ASCII
                raise RecordError(
                    f"{self.path} is in {wide}; convert it: iconv -f {wide} -t UTF-8 {self.path.name} > OTHER"
                )
        self.files = [self.local]
        blocks = list(_index_lines(self.local))
        self.numbers = np.concatenate([numbers for numbers, _ in blocks])
        self.spans = np.concatenate([spans for _, spans in blocks])

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, index: int) -> Record:
        start, stop = self.spans[index].tolist()
        with self.local.open("rb") as file:
            file.seek(start)
            return self.parse(file.read(stop - start), self.folder, f"{self.path}:{self.numbers[index]}")


def _index_lines(path: os.PathLike) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield, block by block, the lines that are not blank: i32[n] numbers from 1, i64[n,2] start and stop in bytes."""
    yield np.zeros(0, np.int32), np.zeros((0, 2), np.int64)
    start, number, visible = 0, 1, 0  # of a line that continues in the next block: its start, its visible bytes
    offset = 0
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            data = np.frombuffer(block, np.uint8)
            ends = np.flatnonzero(data == ord("\n"))
            visible_until = np.cumsum(data > ord(" "))[ends] + visible
            visible += int(np.count_nonzero(data > ord(" "))) - (int(visible_until[-1]) if len(ends) else 0)
            bounds = np.concatenate([[start], offset + ends + 1])
            is_filled = np.diff(visible_until, prepend=0) > 0
            numbers = (number + np.flatnonzero(is_filled)).astype(np.int32)
            yield numbers, np.stack([bounds[:-1], bounds[1:]], axis=1)[is_filled].astype(np.int64)
            start, number, offset = int(bounds[-1]), number + len(ends), offset + len(block)
    if visible:
        yield np.array([number], np.int32), np.array([[start, offset]], np.int64)


class ArrayRecordSource:
    """Records of an ArrayRecord file (or a list of shards), by index; those of a bucket are copied first."""

    def __init__(self, paths: str | os.PathLike | Sequence[str | os.PathLike]):
        """Raises RecordError, naming the file, where one is broken or of another kind."""
        self.names = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        self.files = [storage.local(storage.path(name)) for name in self.names]
        try:
            self.source = ArrayRecordDataSource([str(file) for file in self.files])
        except RuntimeError as error:  # the library has no error of its own, and does not name the file
            broken = next(name for name, file in zip(self.names, self.files, strict=True) if not _is_array_record(file))
            raise RecordError(f"{broken}: not an ArrayRecord file, or a truncated one: {error}") from error

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        location = f"{self.names[0]}{', ...' * (len(self.names) > 1)}[{index}]"
        try:
            data = self.source[int(index)]
        except RuntimeError as error:
            raise RecordError(f"{location}: its bytes cannot be read: {error}") from error
        return from_bytes(data, location)


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


def choose_parser(split: str) -> Parse:
    """Choose the parser of a split: items of a `corpus` or `queries`, graded pairs of `sts...`, else training pairs."""
    if split in ("corpus", "queries"):
        return parse_item
    return parse_graded if split.startswith("sts") else parse_line


def open_split(folder: str | os.PathLike, split: str, parse: Parse | None = None) -> Source:
    """Open `folder/split.array_record`, its shards `split-00000-of-00008.array_record`, ..., or `folder/split.jsonl`.

    `parse` reads the lines of JSONL, by default as the split's name says. Raises FileNotFoundError where there is none
    of these or a shard is missing, and RecordError for a broken file.
    """
    folder = storage.path(folder)
    if (folder / f"{split}.array_record").exists():
        return ArrayRecordSource(folder / f"{split}.array_record")
    if shards := find_shards(folder, split):
        return ArrayRecordSource(shards)
    if (folder / f"{split}.jsonl").exists():
        return JsonlSource(folder, split, parse or choose_parser(split))
    raise FileNotFoundError(
        f"no {split}.array_record, no shards of it and no {split}.jsonl in {folder}; build the corpora or fix the path"
    )


def find_shards(folder: storage.Path, split: str) -> list[storage.Path]:
    """Find the shards of a split, in order; [] where it has none. Raises FileNotFoundError where some are missing."""
    candidates = folder.glob(f"{glob.escape(split)}-*.array_record")
    shards = sorted(path for path in candidates if SHARD_SUFFIX.fullmatch(path.name.removeprefix(split)))
    names = [path.name for path in shards]
    if names != [shard_name(split, number, len(shards)) for number in range(len(shards))]:
        raise FileNotFoundError(f"{folder}: the shards of {split} are not a complete set: {', '.join(names)[:200]}")
    return shards


def shard_name(split: str, number: int, count: int) -> str:
    """The file name of one of the `count` shards of a split."""
    return f"{split}-{number:05}-of-{count:05}.array_record"


def list_splits(folder: storage.Path) -> list[str]:
    """List the names of the splits in a folder, sorted."""
    names = [path.name for suffix in ("jsonl", "array_record") for path in folder.glob(f"*.{suffix}")]
    splits = {SHARD_SUFFIX.sub("", name).removesuffix(".array_record").removesuffix(".jsonl") for name in names}
    return sorted(splits - {QUARANTINE})


def read_records(source: Source) -> Iterator[Record]:
    """Yield every record in order. Raises RecordError at the first that cannot be read."""
    return (source[index] for index in range(len(source)))
