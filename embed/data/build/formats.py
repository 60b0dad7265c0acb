"""Readers of published formats: JSONL, Parquet, tar (WebDataset), TFDS and BEIR, as the parts of a build.

A spec (`embed/data/build/spec.py`) uses one for each of its splits, with a function from a row to records.
"""

import dataclasses
import functools
import glob
import io
import itertools
import logging
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np
import pyarrow
import pyarrow.parquet
import soundfile
from PIL import Image as Pillow

from embed.data.jsonl import parse_beir
from embed.data.modalities import Audio, Content, Image
from embed.data.qrels import read_qrels
from embed.data.records import MAX_MEDIA_BYTES, Record, RecordError
from embed.data.sources import JsonlSource, Parse, open_split
from embed.data.textfile import decode_text
from embed.distributed import storage

log = logging.getLogger(__name__)
TEXT_SUFFIXES = {
    "txt",
    "text",
    "transcript",
    "cls",
    "json",
    "jsonl",
    "csv",
    "tsv",
    "md",
    "html",
    "xml",
}  # of text files in a tar
# what tarfile and its decompressors raise for a broken file
TAR_ERRORS = (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError)
ROWS_PER_PART = 1000  # where rows are read by index


@dataclasses.dataclass(frozen=True)
class SourcePart:
    """A range of rows that one worker reads in order. An error of `records` quarantines the row."""

    rows: Callable[[], Iterator[tuple[str, Any]]]  # (position, row)
    records: Callable[[Any], Iterable[Record]]  # of a row


def by_index(name: str, source: Any, records: Callable[[Any], Iterable[Record]]) -> list[SourcePart]:
    """Split any sequence (`len`, `[i]`) of rows into parts; `records` makes the records of a row."""

    def rows(numbers: range) -> Iterator[tuple[str, Any]]:
        for i in numbers:
            yield f"{name}[{i}]", functools.partial(source.__getitem__, i)

    def read(row: Callable[[], Any]) -> Iterable[Record]:
        return records(row())

    starts = range(0, len(source), ROWS_PER_PART)
    return [SourcePart(functools.partial(rows, range(i, min(i + ROWS_PER_PART, len(source)))), read) for i in starts]


def dataset_split(folder: str | os.PathLike, name: str, parse: Parse | None = None) -> list[SourcePart]:
    """Read a split in JSONL or ArrayRecord, as `sources.open_split` does. Raises FileNotFoundError, RecordError."""
    return by_index(f"{folder}/{name}", open_split(folder, name, parse), _single_record)


def _single_record(record: Record) -> list[Record]:
    return [record]


def tfds(
    name: str,
    split: str,
    records: Callable[[dict], Iterable[Record]],
    encoded: Sequence[str] = (),
    data_dir: str | None = None,
) -> list[SourcePart]:
    """Read a split of a TFDS dataset that was prepared with `file_format="array_record"`; TensorFlow is not needed.

    A row is an example: text as bytes, images of the features `encoded` as their original files, other media as arrays
    (see `encode_image`, `encode_audio`). Raises what TFDS raises for an unknown dataset.
    """
    import tensorflow_datasets

    decoders = {feature: tensorflow_datasets.decode.SkipDecoding() for feature in encoded}
    examples = tensorflow_datasets.data_source(name, split=split, data_dir=data_dir, decoders=decoders)
    return by_index(f"{name}:{split}", examples, records)


def encode_image(pixels: np.ndarray) -> Image:
    """Encode pixels u8[h,w,c], with 1, 3 or 4 channels, or u8[h,w], as PNG. Raises ValueError for other arrays."""
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (1,), (3,), (4,)):
        raise ValueError(f"pixels {pixels.dtype}{list(pixels.shape)}: expected u8[h,w,3]")
    out = io.BytesIO()
    Pillow.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels).save(out, "PNG")
    return Image(out.getvalue())


def encode_audio(samples: np.ndarray, rate: int) -> Audio:
    """Encode samples [n] or [n,channels] at `rate` Hz as 16-bit FLAC.

    samples: i16, i32 or floats in -1..1; also i64 with 16-bit values, as TFDS has them. Raises ValueError for others.
    """
    if samples.dtype == np.int64:
        if samples.size and not -(2**15) <= samples.min() <= samples.max() < 2**15:
            raise ValueError("int64 samples that do not fit 16 bits: give int32, or floats in -1..1")
        samples = samples.astype(np.int16)
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format="FLAC", subtype="PCM_16")
    return Audio(out.getvalue())


def parquet(
    pattern: str | os.PathLike, records: Callable[[dict], Iterable[Record]], columns: Sequence[str] | None = None
) -> list[SourcePart]:
    """Read Parquet files (`data/train-*.parquet`), such as those of the Hugging Face hub; a row group is a part.

    A row is a dict of all columns, or of `columns`. Raises FileNotFoundError where no file matches.
    """

    def rows(path: str, group: int, first: int) -> Iterator[tuple[str, Callable[[], dict]]]:
        count = itertools.count(first)
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(16, row_groups=[group], columns=columns):  # rows may hold media
                    for i in range(len(batch)):
                        yield f"{path}[{next(count)}]", functools.partial(_take_row, batch, i)
        except (pyarrow.ArrowException, OSError) as error:
            raise RecordError(f"{path}: row group {group} is broken: {error}") from error

    def read(row: Callable[[], dict]) -> Iterable[Record]:
        return records(row())

    parts = []
    for path in list_files(pattern):
        try:
            metadata = pyarrow.parquet.read_metadata(path)
        except (pyarrow.ArrowException, OSError) as error:
            raise RecordError(f"{path} is not a complete Parquet file: {error}") from error
        first = 0
        for group in range(metadata.num_row_groups):
            parts.append(SourcePart(functools.partial(rows, path, group, first), read))
            first += metadata.row_group(group).num_rows
    return parts


def _take_row(batch: pyarrow.RecordBatch, number: int) -> dict:
    """Convert one row alone, so that a string that is not UTF-8 is an error of that row only."""
    return batch.slice(number, 1).to_pylist()[0]


def webdataset(pattern: str | os.PathLike, records: Callable[[dict], Iterable[Record]]) -> list[SourcePart]:
    """Read the samples of tar files; a file is a part.

    Adjacent members whose names agree up to the first dot are one row: a dict of `__key__`, that name, and the bytes of
    each member under the rest of its name (`jpg`, `txt`, `0.json`, ...). Text is converted to UTF-8 by its byte-order
    mark. Nothing is unpacked to disk. Raises FileNotFoundError where no file matches.
    """

    def rows(path: str) -> Iterator[tuple[str, dict]]:
        try:
            with tarfile.open(path, "r|*", tarinfo=StrictTarInfo) as archive:
                members = ((*_split_member_name(member.name), member) for member in archive if member.isfile())
                for key, group in itertools.groupby(members, lambda keyed: keyed[0]):
                    row: dict[str, Any] = {"__key__": key}
                    for _, rest, member in group:
                        if member.size > MAX_MEDIA_BYTES:
                            row[rest] = None  # too large: as if the field were missing
                        elif (file := archive.extractfile(member)) is not None:
                            row[rest] = file.read()
                    yield f"{path}: {key}", row
        except TAR_ERRORS as error:
            raise RecordError(f"{path}: not a complete tar file: {error}") from error

    def read(row: dict) -> Iterable[Record]:
        return records({name: _in_utf8(name, data) for name, data in row.items()})

    return [SourcePart(functools.partial(rows, path), read) for path in list_files(pattern)]


class StrictTarInfo(tarfile.TarInfo):
    """A member's header; a broken or missing one is an error, where tarfile would see the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the end-of-archive marker
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"no member header at byte {archive.offset} ({error})") from error


def _in_utf8(name: str, data: Any) -> Any:
    """Convert a text field to UTF-8 without a byte-order mark; return other fields unchanged. Raises RecordError."""
    if name.rpartition(".")[2].lower() not in TEXT_SUFFIXES or not isinstance(data, bytes):
        return data
    try:
        return decode_text(data).encode()
    except ValueError as error:
        raise RecordError(f"{name}: {error}") from error


def _split_member_name(name: str) -> tuple[str, str]:
    folder, _, file = name.rpartition("/")
    stem, _, rest = file.partition(".")
    return f"{folder}/{stem}" if folder else stem, rest


def list_files(pattern: str | os.PathLike) -> list[str]:
    """List the files that match a pattern, sorted. Raises FileNotFoundError where there are none."""
    name = os.fspath(pattern)
    # a file's own name may contain brackets
    matches = [name] if os.path.isfile(name) else sorted(glob.glob(name, recursive=True))
    if not matches:
        raise FileNotFoundError(f"no file matches {name!r}")
    return matches


def download_hub(repo: str, revision: str, pattern: str = "**/*.parquet") -> str:
    """Download the files of a Hugging Face dataset that match `pattern`; return their folder in the hub's cache.

    Most datasets are Parquet there: `parquet(download_hub(...) + "/data/train-*", ...)`. No code of the dataset runs.
    """
    import huggingface_hub

    return huggingface_hub.snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=pattern)


def beir(folder: str | os.PathLike, name: str, negatives: int = 8) -> list[SourcePart]:
    """Read the training pairs of a BEIR folder (corpus.jsonl, queries.jsonl, qrels/NAME.tsv).

    A pair is a query and one relevant document, with up to `negatives` documents that were judged irrelevant. The
    corpus is indexed by id, not loaded; unreadable lines are counted in the log. Raises RecordError and
    FileNotFoundError.
    """
    folder = storage.path(folder)
    queries = JsonlSource(folder, "queries", parse_beir)
    corpus = JsonlSource(folder, "corpus", parse_beir)
    query_index = _index_by_id(queries)
    document_index = _index_by_id(corpus)
    grades_by_query: dict[str, dict[str, int]] = {}
    for _, query, document, grade in read_qrels(folder / "qrels" / f"{name}.tsv"):
        grades_by_query.setdefault(query, {})[document] = grade
    rows = [
        (query, document)
        for query, grades in grades_by_query.items()
        for document, grade in grades.items()
        if grade > 0
    ]

    def load_query(key: str) -> Content:
        if key not in query_index:
            raise RecordError(f"qrels/{name}.tsv: no query {key!r} in {folder}")
        return queries[query_index[key]].query

    def load_document(key: str) -> Content:
        if key not in document_index:
            raise RecordError(f"qrels/{name}.tsv: no document {key!r} in {folder}")
        return corpus[document_index[key]].query

    def records(row: tuple[str, str]) -> list[Record]:
        query, document = row
        grades = grades_by_query[query]
        irrelevant = [key for key, grade in grades.items() if grade <= 0 and key in document_index][:negatives]
        hard_negatives = tuple(map(load_document, irrelevant))
        return [Record(f"{query}/{document}", load_query(query), load_document(document), hard_negatives)]

    return by_index(f"{folder}/qrels/{name}.tsv", rows, records)


def _index_by_id(source: JsonlSource) -> dict[str, int]:
    """Map each id to its index; log how many lines cannot be read."""
    index: dict[str, int] = {}
    broken: list[str] = []
    for i in range(len(source)):
        try:
            index[source[i].id] = i
        except RecordError as error:
            broken.append(str(error))
    if broken:
        log.info("%d of %d lines cannot be read; the first: %s", len(broken), len(source), broken[0])
    return index


def beir_test(folder: str | os.PathLike) -> dict[str, list[SourcePart]]:
    """Read the benchmark of a BEIR folder: its `corpus`, and the `queries` with a relevant document in qrels/test.tsv.

    Raises RecordError and FileNotFoundError.
    """
    folder = storage.path(folder)
    with_answer = {query for _, query, _, grade in read_qrels(folder / "qrels" / "test.tsv") if grade > 0}
    queries = by_index(
        f"{folder}/queries.jsonl",
        JsonlSource(folder, "queries", parse_beir),
        lambda record: [record] if record.id in with_answer else [],
    )
    return {"corpus": dataset_split(folder, "corpus", parse_beir), "queries": queries}
