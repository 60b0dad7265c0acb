"""Write records to ArrayRecord files, in one file or in shards: a split appears when all of it is written."""

import glob
import pathlib
import tempfile
from collections.abc import Iterable

from array_record.python.array_record_module import ArrayRecordWriter

from embed.data.records import Record, to_bytes
from embed.data.sources import SHARD_SUFFIX, shard_name
from embed.distributed import storage

SHARD_BYTES = 2**29  # of one shard, about


def write_records(path: storage.Path, records: Iterable[Record]) -> int:
    """Write records to an ArrayRecord file, complete or not at all; return their number."""
    return write_encoded(path, map(to_bytes, records))


def write_encoded(path: storage.Path, records: Iterable[bytes]) -> int:
    """Write records that `to_bytes` has encoded, as `write_records` does."""
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
    """Write a split in shards of about SHARD_BYTES and return their paths.

    The shards appear when all are written; the shards that the split had before are then deleted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=None if storage.is_remote(folder) else folder) as drafts:
        files: list[pathlib.Path] = []
        writer, room = None, 0
        for record in records:
            if writer is None or room < len(record):
                writer, room = _next_shard(writer, files, drafts), SHARD_BYTES
            writer.write(record)
            room -= len(record)
        (writer or _next_shard(None, files, drafts)).close()
        for path in folder.glob(f"{glob.escape(split)}-*.array_record"):
            if SHARD_SUFFIX.fullmatch(path.name.removeprefix(split)):
                path.unlink()
        paths = [folder / shard_name(split, number, len(files)) for number in range(len(files))]
        for file, path in zip(files, paths, strict=True):
            storage.move_into(file, path)
    return paths


def _next_shard(writer: ArrayRecordWriter | None, files: list[pathlib.Path], folder: str) -> ArrayRecordWriter:
    if writer is not None:
        writer.close()
    files.append(pathlib.Path(folder, f"{len(files)}.array_record"))
    return ArrayRecordWriter(str(files[-1]), "group_size:1")
