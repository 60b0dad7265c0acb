"""What others keep data in, as the parts of a build: rows of JSONL, Parquet, tar, TFDS or BEIR, and their records.

A spec (`embed/data/build/spec.py`) names one of these for each of its splits, with a function from a row to records.
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
TEXTS = {"txt", "text", "transcript", "cls", "json", "jsonl", "csv", "tsv", "md", "html", "xml"}  # suffixes in a tar
# what a tar or its compression raises where the file is broken
TAR_ERRORS = (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError)
ROWS = 1000  # of a part, where rows are read by their index


@dataclasses.dataclass(frozen=True)
class Part:
    """Some rows of a source, which one worker reads in order. What `records` raises is why its row is quarantined."""

    rows: Callable[[], Iterator[tuple[str, Any]]]  # (where it stands, the row)
    records: Callable[[Any], Iterable[Record]]  # of a row


def by_index(name: str, source: Any, records: Callable[[Any], Iterable[Record]]) -> list[Part]:
    """Any sequence (`len`, `[i]`) of rows: a function from a row to its records."""

    def rows(numbers: range) -> Iterator[tuple[str, Any]]:
        for i in numbers:
            yield f"{name}[{i}]", functools.partial(source.__getitem__, i)

    def read(row: Callable[[], Any]) -> Iterable[Record]:
        return records(row())

    starts = range(0, len(source), ROWS)
    return [Part(functools.partial(rows, range(i, min(i + ROWS, len(source)))), read) for i in starts]


def split(folder: str | os.PathLike, name: str, parse: Parse | None = None) -> list[Part]:
    """A split as `sources.open_split` finds it, in JSONL or ArrayRecord. Raises FileNotFoundError, RecordError."""
    return by_index(f"{folder}/{name}", open_split(folder, name, parse), _alone)


def _alone(record: Record) -> list[Record]:
    return [record]


def tfds(
    name: str,
    split: str,
    records: Callable[[dict], Iterable[Record]],
    encoded: Sequence[str] = (),
    data_dir: str | None = None,
) -> list[Part]:
    """A split of a TensorFlow dataset that was prepared with `file_format="array_record"`, without TensorFlow.

    A row is an example, texts as bytes, the images among `encoded` as the files that they were, other media as arrays
    (see `image_of`, `audio_of`). Raises what TFDS raises where there is no such dataset.
    """
    import tensorflow_datasets

    decoders = {feature: tensorflow_datasets.decode.SkipDecoding() for feature in encoded}
    examples = tensorflow_datasets.data_source(name, split=split, data_dir=data_dir, decoders=decoders)
    return by_index(f"{name}:{split}", examples, records)


def image_of(pixels: np.ndarray) -> Image:
    """Pixels u8[h,w,3], or of one channel, or u8[h,w], as a PNG. Raises ValueError for other arrays."""
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (1,), (3,), (4,)):
        raise ValueError(f"pixels {pixels.dtype}{list(pixels.shape)}: expected u8[h,w,3]")
    out = io.BytesIO()
    Pillow.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels).save(out, "PNG")
    return Image(out.getvalue())


def audio_of(samples: np.ndarray, rate: int) -> Audio:
    """Samples [n] or [n,channels], integers of 16 or 32 bits (or 64, as TFDS has those of 16) or floats in -1..1, at
    `rate` a second, as a FLAC of 16 bits. Raises ValueError for other arrays."""
    if samples.dtype == np.int64:
        if samples.size and not -(2**15) <= samples.min() <= samples.max() < 2**15:
            raise ValueError("samples of 64 bits that do not fit 16: give int32, or floats in -1..1")
        samples = samples.astype(np.int16)
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format="FLAC", subtype="PCM_16")
    return Audio(out.getvalue())


def parquet(
    pattern: str | os.PathLike, records: Callable[[dict], Iterable[Record]], columns: Sequence[str] | None = None
) -> list[Part]:
    """Rows of Parquet files (`data/train-*.parquet`), those of the Hugging Face hub among them: a row group a part.

    A row is a dict of its columns, or of `columns`. Raises FileNotFoundError where no file fits.
    """

    def rows(path: str, group: int, first: int) -> Iterator[tuple[str, Callable[[], dict]]]:
        count = itertools.count(first)
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(16, row_groups=[group], columns=columns):  # rows may hold media
                    for i in range(len(batch)):
                        yield f"{path}[{next(count)}]", functools.partial(_row, batch, i)
        except (pyarrow.ArrowException, OSError) as error:
            raise RecordError(f"{path}: row group {group} is broken: {error}") from error

    def read(row: Callable[[], dict]) -> Iterable[Record]:
        return records(row())

    parts = []
    for path in files(pattern):
        try:
            about = pyarrow.parquet.read_metadata(path)
        except (pyarrow.ArrowException, OSError) as error:
            raise RecordError(f"{path} is no whole Parquet file: {error}") from error
        first = 0
        for group in range(about.num_row_groups):
            parts.append(Part(functools.partial(rows, path, group, first), read))
            first += about.row_group(group).num_rows
    return parts


def _row(batch: pyarrow.RecordBatch, number: int) -> dict:
    """Read here, not with its neighbours: a string that is not UTF-8 is the fault of one row."""
    return batch.slice(number, 1).to_pylist()[0]


def webdataset(pattern: str | os.PathLike, records: Callable[[dict], Iterable[Record]]) -> list[Part]:
    """Samples of tar files, a file a part: neighbours of one name up to its first dot are one row, a dict of
    `__key__`, that name, and a file's bytes under the rest of its name (`jpg`, `txt`, `0.json`, ...), those of a text
    in UTF-8 whatever its byte-order mark says.

    Nothing is unpacked to disk. Raises FileNotFoundError where no file fits.
    """

    def rows(path: str) -> Iterator[tuple[str, dict]]:
        try:
            with tarfile.open(path, "r|*", tarinfo=Header) as archive:
                named = ((*_key(member.name), member) for member in archive if member.isfile())
                for key, members in itertools.groupby(named, lambda one: one[0]):
                    row: dict[str, Any] = {"__key__": key}
                    for _, rest, member in members:
                        if member.size > MAX_MEDIA_BYTES:
                            row[rest] = None  # a field that is missing, to whoever asks for it
                        elif (file := archive.extractfile(member)) is not None:
                            row[rest] = file.read()
                    yield f"{path}: {key}", row
        except TAR_ERRORS as error:
            raise RecordError(f"{path}: no whole tar file: {error}") from error

    def read(row: dict) -> Iterable[Record]:
        return records({name: _in_utf8(name, data) for name, data in row.items()})

    return [Part(functools.partial(rows, path), read) for path in files(pattern)]


class Header(tarfile.TarInfo):
    """A member's header. One that is broken, or missing before the end is marked, is an error: tarfile alone takes it
    for the end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the mark of the end
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"no header of a file at byte {archive.offset} ({error})") from error


def _in_utf8(name: str, data: Any) -> Any:
    """A text's bytes without a byte-order mark, in UTF-8; other fields as they are. Raises RecordError."""
    if name.rpartition(".")[2].lower() not in TEXTS or not isinstance(data, bytes):
        return data
    try:
        return decode_text(data).encode()
    except ValueError as error:
        raise RecordError(f"{name}: {error}") from error


def _key(name: str) -> tuple[str, str]:
    folder, _, file = name.rpartition("/")
    stem, _, rest = file.partition(".")
    return f"{folder}/{stem}" if folder else stem, rest


def files(pattern: str | os.PathLike) -> list[str]:
    """The files of a pattern, by name. Raises FileNotFoundError where there are none."""
    name = os.fspath(pattern)
    found = [name] if os.path.isfile(name) else sorted(glob.glob(name, recursive=True))  # brackets may be of a name
    if not found:
        raise FileNotFoundError(f"no file fits {name!r}")
    return found


def hub(repo: str, revision: str, pattern: str = "**/*.parquet") -> str:
    """The folder of a dataset of the Hugging Face hub at a revision, its files of `pattern` downloaded to the hub's
    cache. Most datasets are Parquet there: `parquet(hub(...) + "/data/train-*", ...)`. No code of it is run."""
    import huggingface_hub

    return huggingface_hub.snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=pattern)


def beir(folder: str | os.PathLike, name: str, negatives: int = 8) -> list[Part]:
    """Training pairs of a BEIR folder (corpus.jsonl, queries.jsonl, qrels/NAME.tsv): a query and each document that
    answers it, with up to `negatives` of those that were judged, are there and do not.

    The corpus is indexed by id, not held; its lines that cannot be read are counted in the log. Raises RecordError and
    FileNotFoundError.
    """
    folder = storage.path(folder)
    queries, corpus = (JsonlSource(folder, side, parse_beir) for side in ("queries", "corpus"))
    at = [_index(queries), _index(corpus)]
    judged: dict[str, dict[str, int]] = {}
    for _, query, document, grade in read_qrels(folder / "qrels" / f"{name}.tsv"):
        judged.setdefault(query, {})[document] = grade
    rows = [(query, document) for query, grades in judged.items() for document, grade in grades.items() if grade > 0]

    def content(side: int, key: str) -> Content:
        if key not in at[side]:
            raise RecordError(f"qrels/{name}.tsv: no {('query', 'document')[side]} {key!r} in {folder}")
        return (queries, corpus)[side][at[side][key]].query

    def records(row: tuple[str, str]) -> list[Record]:
        query, document = row
        wrong = [key for key, grade in judged[query].items() if grade <= 0 and key in at[1]][:negatives]
        others = tuple(content(1, key) for key in wrong)
        return [Record(f"{query}/{document}", content(0, query), content(1, document), others)]

    return by_index(f"{folder}/qrels/{name}.tsv", rows, records)


def _index(source: JsonlSource) -> dict[str, int]:
    """Where each id is."""
    at: dict[str, int] = {}
    broken: list[str] = []
    for i in range(len(source)):
        try:
            at[source[i].id] = i
        except RecordError as error:
            broken.append(str(error))
    if broken:
        log.info("%d of %d lines cannot be read; the first: %s", len(broken), len(source), broken[0])
    return at


def beir_test(folder: str | os.PathLike) -> dict[str, list[Part]]:
    """The benchmark of a BEIR folder: its `corpus`, and of its `queries` those that qrels/test.tsv has an answer to.

    Raises RecordError and FileNotFoundError.
    """
    folder = storage.path(folder)
    answered = {query for _, query, _, grade in read_qrels(folder / "qrels" / "test.tsv") if grade > 0}
    queries = by_index(
        f"{folder}/queries.jsonl",
        JsonlSource(folder, "queries", parse_beir),
        lambda record: [record] if record.id in answered else [],
    )
    return {"corpus": split(folder, "corpus", parse_beir), "queries": queries}
