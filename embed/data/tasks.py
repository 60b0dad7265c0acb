"""A task: where its pairs come from, how large its batches are, how often it is drawn, and what its rows hold."""

import dataclasses
import itertools
import logging
from typing import Any

import jax
import numpy as np

from embed.batch import REPORT_CANDIDATES, Candidates, Inputs, MediaFormat, PackedIndices, Pairs
from embed.data import prompts
from embed.data.budget import Budget, Input, truncate_to
from embed.data.collate import make_padding_rows, make_rows
from embed.data.media.decode import MediaError
from embed.data.modalities import Content, Text
from embed.data.packing import Packing, pack_groups
from embed.data.pieces import LimitError
from embed.data.preprocess import Preprocessor, make_pieces
from embed.data.records import Record, RecordError, content_hash, read_score
from embed.data.sources import SIMILARITY_SPLITS, Source
from embed.distributed import mesh

log = logging.getLogger(__name__)


class BadRecord(ValueError):
    """A record that cannot be read, decoded or fitted; the message names it and the reason."""


@dataclasses.dataclass(frozen=True)
class Task:
    """One row of an experiment's mixture."""

    name: str  # the dataset's folder under the data root
    batch: int  # pairs per batch, over all hosts
    weight: float  # share of the steps, relative to the other tasks
    query: Budget
    target: Budget
    prompt: str | None = None  # the task string, for sides of text alone (see embed/data/prompts.py)
    prompt_dropout: float = 0.0  # probability that a pair is shown without its task string
    negatives: int = 0  # hard negatives per query; records with fewer repeat theirs, records without have none
    candidates: Candidates = REPORT_CANDIDATES
    split: str = "train"  # of the dataset; sts_train has graded pairs, whose sides take the same prompt
    packing: Packing | None = None  # several inputs per row; the budgets above are then of one input

    def __post_init__(self):
        if self.prompt is not None and self.prompt not in prompts.QUERY_TASKS:
            raise ValueError(
                f"task {self.name}: unknown prompt {self.prompt!r}; one of: {', '.join(prompts.QUERY_TASKS)}"
            )
        if self.batch < 1 or self.weight <= 0 or not 0 <= self.prompt_dropout <= 1:
            raise ValueError(f"task {self.name}: needs batch >= 1, weight > 0 and 0 <= prompt_dropout <= 1")
        if self.packing is not None:
            self._check_packing(self.packing)

    def _check_packing(self, packing: Packing) -> None:
        if self.batch % packing.group:
            raise ValueError(f"task {self.name}: groups of {packing.group} do not divide {self.batch} pairs")
        for budget, rows in ((self.query, packing.query), (self.target, packing.target)):
            sizes = zip(dataclasses.astuple(budget), dataclasses.astuple(rows.budget), strict=True)
            if any(size > limit for size, limit in sizes):
                raise ValueError(f"task {self.name}: a row of {rows.budget} cannot hold an input of {budget}")

    @property
    def is_graded(self) -> bool:
        """Whether the pairs have scores."""
        return self.split in SIMILARITY_SPLITS.values()

    @property
    def groups(self) -> int:
        """How many units of a batch each stay on one device: groups of packed pairs, else pairs."""
        return self.batch // (self.packing.group if self.packing else 1)


@dataclasses.dataclass(frozen=True)
class Example:
    """One record as a pair of a task."""

    query: Input
    target: Input
    negatives: list[Input]  # h of them; None where the record has too few
    hashes: np.ndarray  # u32[2 + h,2], content hashes of query, target and negatives
    valid: bool
    truncated: bool  # whether an input was cut to its task's budget
    score: float  # of a graded pair; 0 where the task has none


def make_pairs(task: Task, preprocessor: Preprocessor, source: Source, keys: np.ndarray) -> Pairs:
    """Make a batch of Pairs (numpy) of the records `keys[:, 0]`; `keys[:, 1]` seeds each record's own randomness.

    A record that cannot be read, decoded or fitted is quarantined, never replaced: its row stays, with `valid` False
    and zeros, and is logged. A pair that overflows its group's rows is not valid either, and is counted.
    """
    examples = [_make_or_quarantine(task, preprocessor, source, int(index), int(seed)) for index, seed in keys]
    queries = [example.query for example in examples]
    targets = [example.target for example in examples]
    negatives = [example.negatives for example in examples]
    hashes = np.stack([example.hashes for example in examples])  # u32[q,2 + h,2]
    valid = np.array([example.valid for example in examples])
    packed = None
    if task.packing is None:
        query = make_rows(queries, task.query, preprocessor)
        target = make_rows(targets, task.target, preprocessor)
        negative = make_rows(list(itertools.chain.from_iterable(negatives)), task.target, preprocessor)
    else:
        query, target, packed = pack_groups(queries, targets, negatives, task.packing, preprocessor)
        negative = jax.tree.map(lambda leaf: leaf[:0], target)  # they are among the targets
        valid &= ~packed.overflowed.reshape(-1)
    return Pairs(
        query,
        target,
        negative,
        query_hash=hashes[:, 0],
        target_hash=hashes[:, 1],
        negative_hash=hashes[:, 2:].reshape(-1, 2),
        valid=valid,
        packed=packed,
        truncated=np.array([example.truncated for example in examples]),
        score=np.array([example.score for example in examples if task.is_graded], np.float32),
    )


def batch_structs(task: Task, media: MediaFormat) -> Pairs:
    """The shapes of the task's batches, as ShapeDtypeStructs on the current mesh; nothing is read."""
    sharding = jax.sharding.NamedSharding(jax.sharding.get_mesh(), mesh.ROWS)

    def struct(*shape: int, dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def side(budget: Budget, rows: int, max_segments: int = 1) -> Inputs:
        padding = make_padding_rows(rows, budget, media, max_segments)
        return jax.tree.map(lambda leaf: struct(*leaf.shape, dtype=leaf.dtype), padding)

    q, h, packed = task.batch, task.negatives, None
    if task.packing is None:
        sides = side(task.query, q), side(task.target, q), side(task.target, q * h)
    else:
        n, g, query, target = task.groups, task.packing.group, task.packing.query, task.packing.target
        sides = (
            side(query.budget, n * query.count, query.max_segments),
            side(target.budget, n * target.count, target.max_segments),
            side(target.budget, 0, target.max_segments),
        )
        packed = PackedIndices(
            query=struct(n, g, dtype=np.int32),
            target=struct(n, g, dtype=np.int32),
            negative=struct(n, g * h, dtype=np.int32),
            overflowed=struct(n, g, dtype=bool),
        )
    return Pairs(
        *sides,
        query_hash=struct(q, 2, dtype=np.uint32),
        target_hash=struct(q, 2, dtype=np.uint32),
        negative_hash=struct(q * h, 2, dtype=np.uint32),
        valid=struct(q, dtype=bool),
        packed=packed,
        truncated=struct(q, dtype=bool),
        score=struct(q if task.is_graded else 0, dtype=np.float32),
    )


def make_example(task: Task, preprocessor: Preprocessor, source: Source, index: int, seed: int) -> Example:
    """Make a pair of one record; `seed` draws its negatives and whether it keeps its task string.

    Raises BadRecord.
    """
    try:
        record = source[index]
        score = read_score(record, f"id {record.id}") if task.is_graded else 0.0
    except RecordError as error:
        raise BadRecord(f"record {index}: {error}") from error
    try:
        return _preprocess(task, preprocessor, record, score, np.random.default_rng(seed))
    except (MediaError, LimitError) as error:
        raise BadRecord(f"record {index} ({record.id}): {error}") from error


def _make_or_quarantine(task: Task, preprocessor: Preprocessor, source: Source, index: int, seed: int) -> Example:
    try:
        return make_example(task, preprocessor, source, index, seed)
    except BadRecord as error:
        log.warning("quarantined: task %s, %s", task.name, error)
        hashes = np.zeros((2 + task.negatives, 2), np.uint32)
        return Example(None, None, [None] * task.negatives, hashes, valid=False, truncated=False, score=0.0)


def _preprocess(
    task: Task, preprocessor: Preprocessor, record: Record, score: float, rng: np.random.Generator
) -> Example:
    negatives = _choose_negatives(record.negatives, task.negatives, rng)
    has_prompt = rng.random() >= task.prompt_dropout
    # A missing hard negative is padding with the hash of its target: the loss masks candidates equal to the target.
    num_missing = task.negatives - len(negatives)
    contents = [record.query, record.positive, *negatives, *[record.positive] * num_missing]
    hashes = np.stack([content_hash(content) for content in contents])
    query, target = record.query, record.positive
    if task.prompt is not None and has_prompt:
        query = prompts.as_query(query, task.prompt)
        target = prompts.as_query(target, task.prompt) if task.is_graded else prompts.as_document(target)
        negatives = [prompts.as_document(negative) for negative in negatives]
    is_truncated = []

    def fit(content: Content, budget: Budget) -> Input:
        pieces = make_pieces(content, preprocessor, budget.patches or None)
        fitted = truncate_to(pieces, budget, preprocessor.tokenizer)
        is_truncated.append(fitted is not pieces)
        return fitted

    return Example(
        negatives=[*(fit(negative, task.target) for negative in negatives), *[None] * num_missing],
        query=fit(query, task.query),
        target=fit(target, task.target),
        hashes=hashes,
        valid=True,
        truncated=any(is_truncated),
        score=score,
    )


def _choose_negatives(negatives: tuple[Content, ...], count: int, rng: np.random.Generator) -> list[Content]:
    """Draw negatives in random order, starting over where the record has fewer than `count`."""
    if not negatives or not count:
        return []
    order = rng.permutation(len(negatives))
    return [negatives[order[i % len(negatives)]] for i in range(count)]


def collect_texts(record: Record) -> list[str]:
    """Collect every text of a record, for training a tokenizer."""
    contents = (record.query, record.positive, *record.negatives)
    return [part.text for content in contents for part in content if isinstance(part, Text)]
