"""The distinct contents of a dataset, and their vectors in a file: made once for a checkpoint, whatever the size.

Contents are told apart by hash and read again when they are needed; in memory are 24 bytes of each.
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
BLOCK_ROWS = 2048  # contents that are decoded and written together


@dataclasses.dataclass(frozen=True)
class Contents:
    """Contents that occur in the records of a source, each once."""

    source: Source
    hashes: np.ndarray  # u64[n], ascending
    records: np.ndarray  # i64[n], where each is first
    sides: np.ndarray  # i64[n], and on which side: 0 query, 1 positive, 2 and more negatives

    def __len__(self) -> int:
        return len(self.hashes)

    def __getitem__(self, index: int) -> Content:
        return contents_of(self.source[int(self.records[index])])[self.sides[index]]

    def places(self, hashes: np.ndarray) -> np.ndarray:
        """Where contents of these hashes u64[m] are: i64[m]. All must be there."""
        return np.searchsorted(self.hashes, hashes)


@dataclasses.dataclass(frozen=True)
class PairTable:
    """What the records of a source say, a row each that can be read: hashes, and the contents of these hashes."""

    records: np.ndarray  # i64[r], which record
    queries: np.ndarray  # u64[r]
    positives: np.ndarray  # u64[r]
    labels: np.ndarray  # u64[r], 0 = none
    asked: Contents  # the queries
    corpus: Contents  # positives and hard negatives


@dataclasses.dataclass(frozen=True)
class ConcatSource:
    """The records of one source after those of another."""

    first: Source
    second: Source

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, index: int) -> Record:
        own = index - len(self.first)
        return self.first[index] if own < 0 else self.second[own]


def contents_of(record: Record) -> tuple[Content, ...]:
    """Query, positive, negatives."""
    return record.query, record.positive, *record.negatives


def read_pairs(source: Source, more: Source | None = None) -> PairTable:
    """Reads a source once, from end to end, and the items of a corpus, whose contents are candidates too.

    A record that cannot be read is passed over and logged.
    """
    items = len(more) if more is not None else 0
    both = ConcatSource(source, more) if more is not None else source
    rows, asked, corpus = array.array("Q"), array.array("Q"), array.array("Q")
    for number in tqdm(range(len(source) + items), desc="reading", unit="record", disable=not sys.stderr.isatty()):
        try:
            record = both[number]
        except RecordError as error:
            log.warning("passed over: record %d: %s", number, error)
            continue
        query, *others = map(_hash, contents_of(record))
        if number >= len(source):
            corpus.extend((query, number, 0))
            continue
        rows.extend((number, query, others[0], _hash((Text(record.label),)) if record.label else 0))
        asked.extend((query, number, 0))
        for side, value in enumerate(others, start=1):
            corpus.extend((value, number, side))
    table = np.frombuffer(rows, np.uint64).reshape(-1, 4)
    queries, positives, labels = table[:, 1:].T
    found = _distinct(both, asked), _distinct(both, corpus)
    return PairTable(table[:, 0].astype(np.int64), queries, positives, labels, *found)


def _hash(content: Content) -> int:
    return int(content_hash(content).view(np.uint64)[0])


def _distinct(source: Source, found: array.array) -> Contents:
    table = np.frombuffer(found, np.uint64).reshape(-1, 3)
    hashes, first = np.unique(table[:, 0], return_index=True)
    records, sides = table[first, 1:].T.astype(np.int64)
    return Contents(source, hashes, records, sides)


def embed_contents(
    embedder: Embedder, contents: Contents, task: str | None, tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """(vectors f32[n,e] in a file, bool[n] whether each can be embedded; those of the others are zeros).

    Contents of text alone have the prompt of `task` and are cut at `tokens`. The file, under `storage.cache`, is of one
    checkpoint, one set of contents and one prompt; what of it is there is not made again. All hosts call this, and each
    has its own file.
    """
    about = [hash_params(embedder.params), embedder.preprocessor.input_spec(), task, tokens, MAX_CHARACTERS]
    digest = hashlib.blake2b(json.dumps(about).encode() + contents.hashes.tobytes(), digest_size=12).hexdigest()
    stem = storage.cache() / "vectors" / f"{digest}-{jax.process_index()}"
    path, marks, state = (stem.with_suffix(suffix) for suffix in (".npy", ".known.npy", ".done"))
    n = len(contents)
    if not state.exists():
        stem.parent.mkdir(parents=True, exist_ok=True)
        np.lib.format.open_memmap(path, "w+", np.float32, (n, embedder.encoder.arch.embed_dim)).flush()
        np.lib.format.open_memmap(marks, "w+", bool, (n,)).flush()
        _set(state, 0)
    vectors, known = (np.lib.format.open_memmap(file, "r+") for file in (path, marks))
    done, hidden = int(state.read_text()), not sys.stderr.isatty() or not hosts.is_primary()
    with tqdm(total=n, initial=done, desc=f"vectors, {task or 'no task'}", unit="content", disable=hidden) as bar:
        for start in range(done, n, BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, n)
            vectors[start:stop], known[start:stop] = _block(embedder, contents, range(start, stop), task, tokens)
            vectors.flush()
            known.flush()
            _set(state, stop)
            bar.update(stop - start)
    return np.load(path, mmap_mode="r"), np.load(marks)


def _set(state: pathlib.Path, done: int) -> None:
    with storage.atomic_write(state) as file:
        file.write_text(str(done))


def _block(
    embedder: Embedder, contents: Contents, numbers: range, task: str | None, tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    bad = np.zeros(len(numbers), bool)

    def read(i: int) -> list[Piece]:
        try:
            return embedder.pieces(list(contents[numbers[i]]), task, tokens=tokens)
        except (MediaError, LimitError, RecordError) as error:
            log.warning("passed over: record %d: %s", contents.records[numbers[i]], error)
            bad[i] = True
            return []

    raw = embedder.encode(embedder.prepare(read, len(numbers)))
    bad = multihost_utils.process_allgather(bad).reshape(-1, len(numbers)).any(axis=0)  # each host has read its own
    raw[bad] = 0
    return truncate_dim(raw, raw.shape[1]), ~bad
