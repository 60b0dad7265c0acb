"""A task: where its pairs come from, how large its batches are, how often it is drawn, and what its rows hold."""

import dataclasses
import logging
from typing import Any

import jax
import numpy as np

from embed import mesh
from embed.data import prompts
from embed.data.layout import Budget, Layout, LimitError, decode, empty, fit, row, stack
from embed.data.media import MediaError
from embed.data.records import Content, Record, RecordError, Source, Text, content_hash
from embed.inputs import Inputs, MediaFormat, Pairs
from embed.loss.contrast import REPORT, Candidates

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Task:
    """One row of an experiment's mixture."""

    name: str  # the dataset's folder under the data root
    batch: int  # pairs of a batch, over all hosts
    rate: float  # share of the steps, relative to the other tasks
    query: Budget
    target: Budget
    prompt: str | None = None  # the task string, on text-only sides (see embed/data/prompts.py)
    drop: float = 0.0  # probability that a pair is shown without its task string
    negatives: int = 0  # hard negatives a query; records with fewer repeat theirs, with none go without
    candidates: Candidates = REPORT

    def __post_init__(self):
        if self.prompt is not None and self.prompt not in prompts.QUERY_TASKS:
            raise ValueError(
                f"task {self.name}: unknown prompt {self.prompt!r}; one of: {', '.join(prompts.QUERY_TASKS)}"
            )
        if self.batch < 1 or self.rate <= 0 or not 0 <= self.drop <= 1:
            raise ValueError(f"task {self.name}: needs batch >= 1, rate > 0 and 0 <= drop <= 1")


def make_pairs(task: Task, layout: Layout, source: Source, keys: np.ndarray) -> Pairs:
    """Records `keys[:, 0]` as a batch of Pairs (numpy); `keys[:, 1]` seeds each record's own randomness.

    A record that cannot be read, decoded or fitted stays in its place with `valid` False and zeros, and is logged
    with its task: quarantined, never replaced.
    """
    examples = [_example(task, layout, source, int(index), int(seed)) for index, seed in keys]
    queries, targets, negatives, identities, valid = zip(*examples, strict=True)
    hashes = np.stack(identities)  # u32[q, 2 + h, 2]
    return Pairs(
        query=stack(list(queries), task.query, layout),
        target=stack(list(targets), task.target, layout),
        negative=stack([n for own in negatives for n in own], task.target, layout),
        query_hash=hashes[:, 0],
        target_hash=hashes[:, 1],
        negative_hash=hashes[:, 2:].reshape(-1, 2),
        valid=np.array(valid),
    )


def shapes(task: Task, media: MediaFormat) -> Pairs:
    """What a batch of the task is, as ShapeDtypeStructs on the present mesh; nothing is read."""
    here = jax.sharding.NamedSharding(jax.sharding.get_mesh(), mesh.ROWS)

    def rows(count: int, *shape: int, dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((count, *shape), dtype, sharding=here)

    def side(budget: Budget, count: int) -> Inputs:
        return jax.tree.map(lambda leaf: rows(count, *leaf.shape, dtype=leaf.dtype), empty(budget, media))

    q, n = task.batch, task.batch * task.negatives
    return Pairs(
        query=side(task.query, q),
        target=side(task.target, q),
        negative=side(task.target, n),
        query_hash=rows(q, 2, dtype=np.uint32),
        target_hash=rows(q, 2, dtype=np.uint32),
        negative_hash=rows(n, 2, dtype=np.uint32),
        valid=rows(q, dtype=bool),
    )


Example = tuple[Inputs, Inputs, list[Inputs], np.ndarray, bool]


def _example(task: Task, layout: Layout, source: Source, index: int, seed: int) -> Example:
    try:
        record = source[index]
    except RecordError as error:
        log.warning("quarantined: task %s, record %d: %s", task.name, index, error)
        return _absent(task, layout)
    try:
        return _present(task, layout, record, np.random.default_rng(seed))
    except (MediaError, LimitError) as error:
        log.warning("quarantined: task %s, record %d (%s): %s", task.name, index, record.id, error)
        return _absent(task, layout)


def _present(task: Task, layout: Layout, record: Record, rng: np.random.Generator) -> Example:
    chosen = _choose(record.negatives, task.negatives, rng)
    prompted = rng.random() >= task.drop
    contents = [record.query, record.positive, *chosen]
    # Where a record has no hard negative, padding stands in under its target's own hash: the loss masks what equals it.
    absent = task.negatives - len(chosen)
    hashes = np.stack([content_hash(content) for content in contents + [record.positive] * absent])

    def side(content: Content, budget: Budget, is_query: bool) -> Inputs:
        if task.prompt is not None and prompted:
            content = prompts.as_query(content, task.prompt) if is_query else prompts.as_document(content)
        pieces = decode(content, layout, budget.patches or None)
        return row(fit(pieces, budget, layout.tokenizer), budget, layout)

    negatives = [side(content, task.target, False) for content in chosen]
    negatives += [empty(task.target, layout.media)] * absent
    return side(record.query, task.query, True), side(record.positive, task.target, False), negatives, hashes, True


def _choose(negatives: tuple[Content, ...], count: int, rng: np.random.Generator) -> list[Content]:
    if not negatives or not count:
        return []
    order = rng.permutation(len(negatives))
    return [negatives[order[i % len(negatives)]] for i in range(count)]


def _absent(task: Task, layout: Layout) -> Example:
    query, target = empty(task.query, layout.media), empty(task.target, layout.media)
    return query, target, [target] * task.negatives, np.zeros((2 + task.negatives, 2), np.uint32), False


def texts(record: Record) -> list[str]:
    """Every text of a record, for training a tokenizer."""
    sides = (record.query, record.positive, *record.negatives)
    return [part.text for side in sides for part in side if isinstance(part, Text)]
