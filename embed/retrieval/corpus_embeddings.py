"""The distinct contents of a dataset, and their embeddings in a file, computed once per checkpoint.

Contents are identified by hash and read again when needed; memory holds 24 bytes for each.
"""

import array
import dataclasses
import hashlib
import json
import logging
import pathlib
import sys

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from embed.data.media.decode import MediaError
from embed.data.modalities import Content, Text
from embed.data.pieces import MAX_CHARACTERS, LimitError, Piece
from embed.data.records import Record, RecordError, content_hash
from embed.data.sources import Source
from embed.distributed import hosts, storage
from embed.embedder import Embedder
from embed.model.matryoshka import truncate_dim
from embed.training.weights import hash_params

log = logging.getLogger(__name__)
BLOCK_ROWS = 2048  # contents decoded and written together


@dataclasses.dataclass(frozen=True)
class Contents:
    """The distinct contents in the records of a source."""

    source: Source
    hashes: np.ndarray  # u64[n], ascending
    records: np.ndarray  # i64[n], the record of the first occurrence
    sides: np.ndarray  # i64[n], and its side: 0 query, 1 positive, 2 and more negatives

    def __len__(self) -> int:
        return len(self.hashes)

    def __getitem__(self, index: int) -> Content:
        return contents_of(self.source[int(self.records[index])])[self.sides[index]]

    def index_of(self, hashes: np.ndarray) -> np.ndarray:
        """Indices i64[m] of the contents with hashes u64[m], all of which must occur."""
        return np.searchsorted(self.hashes, hashes)


@dataclasses.dataclass(frozen=True)
class PairTable:
    """The pairs of a source, one row per readable record: hashes, and the contents with these hashes."""

    records: np.ndarray  # i64[r], index of the record
    query_hashes: np.ndarray  # u64[r]
    positive_hashes: np.ndarray  # u64[r]
    label_hashes: np.ndarray  # u64[r], 0 = none
    queries: Contents
    corpus: Contents  # positives and hard negatives


@dataclasses.dataclass(frozen=True)
class ConcatSource:
    """The records of one source, then those of another."""

    first: Source
    second: Source

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, index: int) -> Record:
        offset = index - len(self.first)
        return self.first[index] if offset < 0 else self.second[offset]


def contents_of(record: Record) -> tuple[Content, ...]:
    """Return query, positive, negatives."""
    return record.query, record.positive, *record.negatives


def read_pairs(source: Source, extra_corpus: Source | None = None) -> PairTable:
    """Read a source once; the items of `extra_corpus` become candidates too.

    A record that cannot be read is skipped and logged.
    """
    num_extra = len(extra_corpus) if extra_corpus is not None else 0
    records = ConcatSource(source, extra_corpus) if extra_corpus is not None else source
    rows = array.array("Q")
    queries = array.array("Q")
    corpus = array.array("Q")
    hidden = not sys.stderr.isatty()
    for number in tqdm(range(len(source) + num_extra), desc="reading", unit="record", disable=hidden):
        try:
            record = records[number]
        except RecordError as error:
            log.warning("skipped: record %d: %s", number, error)
            continue
        query, *others = map(_hash, contents_of(record))
        if number >= len(source):
            corpus.extend((query, number, 0))
            continue
        rows.extend((number, query, others[0], _hash((Text(record.label),)) if record.label else 0))
        queries.extend((query, number, 0))
        for side, value in enumerate(others, start=1):
            corpus.extend((value, number, side))
    table = np.frombuffer(rows, np.uint64).reshape(-1, 4)
    query_hashes, positive_hashes, label_hashes = table[:, 1:].T
    return PairTable(
        table[:, 0].astype(np.int64),
        query_hashes,
        positive_hashes,
        label_hashes,
        _distinct(records, queries),
        _distinct(records, corpus),
    )


def _hash(content: Content) -> int:
    return int(content_hash(content).view(np.uint64)[0])


def _distinct(source: Source, occurrences: array.array) -> Contents:
    """From hash, record and side of every occurrence."""
    table = np.frombuffer(occurrences, np.uint64).reshape(-1, 3)
    hashes, first = np.unique(table[:, 0], return_index=True)
    records, sides = table[first, 1:].T.astype(np.int64)
    return Contents(source, hashes, records, sides)


def embed_contents(
    embedder: Embedder, contents: Contents, task: str | None, tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """Embed contents: (unit vectors f32[n,e] in a file, is_valid bool[n]).

    Contents that cannot be embedded are not valid, and their vectors are zeros.

    Contents of text alone get the prompt of `task` and are truncated to `tokens`. The file, under `storage.cache`, is
    keyed by checkpoint, contents and prompt; what it already holds is not computed again. All hosts must call this, and
    each has its own file.
    """
    key = [hash_params(embedder.params), embedder.preprocessor.input_spec(), task, tokens, MAX_CHARACTERS]
    digest = hashlib.blake2b(json.dumps(key).encode() + contents.hashes.tobytes(), digest_size=12).hexdigest()
    stem = storage.cache() / "vectors" / f"{digest}-{jax.process_index()}"
    vectors_file = stem.with_suffix(".npy")
    valid_file = stem.with_suffix(".known.npy")
    progress_file = stem.with_suffix(".done")
    n = len(contents)
    if not progress_file.exists():
        stem.parent.mkdir(parents=True, exist_ok=True)
        width = embedder.encoder.arch.embed_dim
        np.lib.format.open_memmap(vectors_file, "w+", np.float32, (n, width)).flush()
        np.lib.format.open_memmap(valid_file, "w+", bool, (n,)).flush()
        _write_progress(progress_file, 0)
    vectors = np.lib.format.open_memmap(vectors_file, "r+")
    is_valid = np.lib.format.open_memmap(valid_file, "r+")
    done = int(progress_file.read_text())
    hidden = not sys.stderr.isatty() or not hosts.is_primary()
    with tqdm(total=n, initial=done, desc=f"vectors, {task or 'no task'}", unit="content", disable=hidden) as bar:
        for start in range(done, n, BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, n)
            block = _embed_block(embedder, contents, range(start, stop), task, tokens)
            vectors[start:stop], is_valid[start:stop] = block
            vectors.flush()
            is_valid.flush()
            _write_progress(progress_file, stop)
            bar.update(stop - start)
    return np.load(vectors_file, mmap_mode="r"), np.load(valid_file)


def _write_progress(file: pathlib.Path, done: int) -> None:
    with storage.atomic_write(file) as partial:
        partial.write_text(str(done))


def _embed_block(
    embedder: Embedder, contents: Contents, numbers: range, task: str | None, tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    is_bad = np.zeros(len(numbers), bool)

    def read(i: int) -> list[Piece]:
        try:
            return embedder.pieces(list(contents[numbers[i]]), task, tokens=tokens)
        except (MediaError, LimitError, RecordError) as error:
            log.warning("skipped: record %d: %s", contents.records[numbers[i]], error)
            is_bad[i] = True
            return []

    raw = embedder.encode(embedder.prepare(read, len(numbers)))
    is_bad = multihost_utils.process_allgather(is_bad).reshape(-1, len(numbers)).any(axis=0)  # each host read a share
    raw[is_bad] = 0
    return truncate_dim(raw, raw.shape[1]), ~is_bad
