"""A task: where its pairs come from, how large its batches are, how often it is drawn, and what its rows hold."""

import dataclasses
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
from embed.data.records import Record, RecordError, content_hash
from embed.data.sources import Source
from embed.distributed import mesh

log = logging.getLogger(__name__)


class BadRecord(ValueError):
    """A record that cannot be read, decoded or fitted; the message names it and says why."""


@dataclasses.dataclass(frozen=True)
class Task:
    """One row of an experiment's mixture."""

    name: str  # the dataset's folder under the data root
    batch: int  # pairs of a batch, over all hosts
    weight: float  # share of the steps, relative to the other tasks
    query: Budget
    target: Budget
    prompt: str | None = None  # the task string, on text-only sides (see embed/data/prompts.py)
    prompt_dropout: float = 0.0  # probability that a pair is shown without its task string
    negatives: int = 0  # hard negatives a query; records with fewer repeat theirs, with none go without
    candidates: Candidates = REPORT_CANDIDATES
    packing: Packing | None = None  # several inputs a row; the budgets above are then of one input

    def __post_init__(self):
        if self.prompt is not None and self.prompt not in prompts.QUERY_TASKS:
            raise ValueError(
                f"task {self.name}: unknown prompt {self.prompt!r}; one of: {', '.join(prompts.QUERY_TASKS)}"
            )
        if self.batch < 1 or self.weight <= 0 or not 0 <= self.prompt_dropout <= 1:
            raise ValueError(f"task {self.name}: needs batch >= 1, weight > 0 and 0 <= prompt_dropout <= 1")
        if self.packing is not None:
            if self.batch % self.packing.group:
                raise ValueError(f"task {self.name}: groups of {self.packing.group} do not divide {self.batch} pairs")
            for one, rows in ((self.query, self.packing.query), (self.target, self.packing.target)):
                if any(a > b for a, b in zip(dataclasses.astuple(one), dataclasses.astuple(rows.budget), strict=True)):
                    raise ValueError(f"task {self.name}: a row of {rows.budget} cannot hold an input of {one}")

    @property
    def groups(self) -> int:
        """What of a batch stays on one device: groups of packed pairs, else pairs."""
        return self.batch // (self.packing.group if self.packing else 1)


def make_pairs(task: Task, preprocessor: Preprocessor, source: Source, keys: np.ndarray) -> Pairs:
    """Records `keys[:, 0]` as a batch of Pairs (numpy); `keys[:, 1]` seeds each record's own randomness.

    A record that cannot be read, decoded or fitted stays in its place with `valid` False and zeros, and is logged
    with its task: quarantined, never replaced. So does a pair that finds no room in its group's rows, which is counted.
    """
    examples = [_make_example(task, preprocessor, source, int(index), int(seed)) for index, seed in keys]
    queries, targets, negatives, identities, known, cut = zip(*examples, strict=True)
    hashes, valid = np.stack(identities), np.array(known)  # u32[q, 2 + h, 2]
    if task.packing is None:
        query, target = make_rows(queries, task.query, preprocessor), make_rows(targets, task.target, preprocessor)
        negative, places = make_rows([one for own in negatives for one in own], task.target, preprocessor), None
    else:
        query, target, places = pack_groups(queries, targets, negatives, task.packing, preprocessor)
        negative = jax.tree.map(lambda leaf: leaf[:0], target)  # they are among the targets
        valid &= ~places.overflowed.reshape(-1)
    identities = hashes[:, 0], hashes[:, 1], hashes[:, 2:].reshape(-1, 2)
    return Pairs(query, target, negative, *identities, valid, places, np.array(cut))


def batch_structs(task: Task, media: MediaFormat) -> Pairs:
    """What a batch of the task is, as ShapeDtypeStructs on the present mesh; nothing is read."""
    here = jax.sharding.NamedSharding(jax.sharding.get_mesh(), mesh.ROWS)

    def rows(count: int, *shape: int, dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((count, *shape), dtype, sharding=here)

    def side(budget: Budget, count: int, max_segments: int = 1) -> Inputs:
        return jax.tree.map(
            lambda leaf: rows(*leaf.shape, dtype=leaf.dtype), make_padding_rows(count, budget, media, max_segments)
        )

    q, h, places = task.batch, task.negatives, None
    if task.packing is None:
        sides = side(task.query, q), side(task.target, q), side(task.target, q * h)
    else:
        n, g, kinds = task.groups, task.packing.group, (task.packing.query, task.packing.target)
        query, target = (side(kind.budget, n * kind.count, kind.max_segments) for kind in kinds)
        sides = query, target, side(kinds[1].budget, 0, kinds[1].max_segments)
        at, there, beside = (rows(n, k, dtype=np.int32) for k in (g, g, g * h))
        places = PackedIndices(at, there, beside, rows(n, g, dtype=bool))
    queries, targets, negatives = (rows(count, 2, dtype=np.uint32) for count in (q, q, q * h))
    return Pairs(*sides, queries, targets, negatives, rows(q, dtype=bool), places, rows(q, dtype=bool))


# query, target, hard negatives, hashes, whether valid, whether one of them was cut to its budget
Example = tuple[Input, Input, list[Input], np.ndarray, bool, bool]


def make_example(task: Task, preprocessor: Preprocessor, source: Source, index: int, seed: int) -> Example:
    """One record of a source as a pair of the task; `seed` draws its negatives and whether it has a task string.

    Raises BadRecord.
    """
    try:
        record = source[index]
    except RecordError as error:
        raise BadRecord(f"record {index}: {error}") from error
    try:
        return _collate_sides(task, preprocessor, record, np.random.default_rng(seed))
    except (MediaError, LimitError) as error:
        raise BadRecord(f"record {index} ({record.id}): {error}") from error


def _make_example(task: Task, preprocessor: Preprocessor, source: Source, index: int, seed: int) -> Example:
    try:
        return make_example(task, preprocessor, source, index, seed)
    except BadRecord as error:
        log.warning("quarantined: task %s, %s", task.name, error)
        return _quarantined(task)


def _collate_sides(task: Task, preprocessor: Preprocessor, record: Record, rng: np.random.Generator) -> Example:
    chosen = _choose(record.negatives, task.negatives, rng)
    prompted = rng.random() >= task.prompt_dropout
    contents = [record.query, record.positive, *chosen]
    # Where a record has no hard negative, padding stands in under its target's own hash: the loss masks what equals it.
    absent = task.negatives - len(chosen)
    hashes = np.stack([content_hash(content) for content in contents + [record.positive] * absent])

    cut = False

    def side(content: Content, budget: Budget, is_query: bool) -> Input:
        nonlocal cut
        if task.prompt is not None and prompted:
            content = prompts.as_query(content, task.prompt) if is_query else prompts.as_document(content)
        whole = make_pieces(content, preprocessor, budget.patches or None)
        pieces = truncate_to(whole, budget, preprocessor.tokenizer)
        cut |= pieces is not whole
        return pieces

    negatives = [side(content, task.target, False) for content in chosen] + [None] * absent
    query, target = side(record.query, task.query, True), side(record.positive, task.target, False)
    return query, target, negatives, hashes, True, cut


def _choose(negatives: tuple[Content, ...], count: int, rng: np.random.Generator) -> list[Content]:
    if not negatives or not count:
        return []
    order = rng.permutation(len(negatives))
    return [negatives[order[i % len(negatives)]] for i in range(count)]


def _quarantined(task: Task) -> Example:
    return None, None, [None] * task.negatives, np.zeros((2 + task.negatives, 2), np.uint32), False, False


def collect_texts(record: Record) -> list[str]:
    """Every text of a record, for training a tokenizer."""
    sides = (record.query, record.positive, *record.negatives)
    return [part.text for side in sides for part in side if isinstance(part, Text)]
