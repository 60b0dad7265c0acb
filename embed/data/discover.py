"""Datasets that someone brings: found under one folder, and turned into tasks by what is in them."""

import dataclasses
import os

import numpy as np

from embed.batch import REPORT_CANDIDATES, Candidates
from embed.data.budget import Budget, standard_budget, truncate_to
from embed.data.media.decode import MediaError
from embed.data.modalities import Content
from embed.data.packing import Packing, fit_rows, measure_input
from embed.data.pieces import LimitError
from embed.data.preprocess import Preprocessor, make_pieces
from embed.data.qrels import QRELS
from embed.data.records import Record, RecordError
from embed.data.sources import Source, open_split
from embed.data.tasks import Task
from embed.distributed import storage

BUDGET_SAMPLE = 64  # records of a dataset that are looked at for the size of its rows
PACKING_SAMPLE = 1024  # and for how many inputs share one: sums vary more than a maximum
SEPARATORS = ":,|"  # of the names that results and tables make of a dataset's


class DatasetError(ValueError):
    """A dataset that cannot be used for what is asked of it; the message names it and what it lacks."""


def _files(split: str) -> tuple[str, ...]:
    return f"{split}.jsonl", f"{split}.array_record", f"{split}-00000-of-*.array_record"


def has_split(folder: storage.Path, split: str) -> bool:
    """Whether there are records of a split."""
    return any(True for form in _files(split) for _ in folder.glob(form))


def find_datasets(root: str | os.PathLike, split: str) -> list[storage.Path]:
    """The folders in `root` that have records of a split, by name; none where `root` is ""."""
    forms = _files(split) if os.fspath(root) else ()
    return sorted({path.parent for form in forms for path in storage.path(root).glob(f"*/{form}")})


def require_datasets(root: str | os.PathLike, split: str) -> list[storage.Path]:
    """`find_datasets`. Raises FileNotFoundError where there are none."""
    found = find_datasets(root, split)
    if not found:
        asked = os.fspath(root) or "'' (no folder was given: --config.pairs=FOLDER)"
        raise FileNotFoundError(
            f"no dataset in {asked}: expected NAME/{split}.jsonl or NAME/{split}.array_record there"
        )
    return found


def has_benchmark(folder: storage.Path) -> bool:
    """Whether a test is there as `corpus`, `queries` and qrels.tsv. A corpus alone is none: mining searches it.

    Raises DatasetError where some of the three are missing.
    """
    judged = {"queries": has_split(folder, "queries"), QRELS: (folder / QRELS).exists()}
    there = judged | {"corpus": has_split(folder, "corpus")}
    if any(judged.values()) and not all(there.values()):
        missing = ", ".join(
            part if part == QRELS else f"{part}.jsonl" for part, is_there in there.items() if not is_there
        )
        raise DatasetError(
            f"{folder}: a benchmark is corpus.jsonl, queries.jsonl and {QRELS}, and there is no {missing}; "
            "python -m embed build writes all three of BEIR's form"
        )
    return all(there.values())


def require_benchmarks(root: str | os.PathLike, split: str = "test") -> list[storage.Path]:
    """The folders in `root` that can be tested, by name: by the pairs of a split, by a benchmark, or by both.

    Raises DatasetError where there are none, where a split is empty or a benchmark incomplete, and for a name that
    cannot be told apart in results.
    """
    found = []
    for folder in list_datasets(root):
        has_pairs = has_split(folder, split)
        if not has_benchmark(folder) and not has_pairs:
            continue
        if has_pairs and not len(open_split(folder, split)):
            raise DatasetError(f"{folder}: the split {split} has no records, so there is nothing to test")
        if any(sign in folder.name for sign in SEPARATORS):
            raise DatasetError(f"{folder}: a dataset's name has none of {' '.join(SEPARATORS)}: rename the folder")
        found.append(folder)
    if not found:
        names = ", ".join(folder.name for folder in list_datasets(root)) or "none"
        raise DatasetError(
            f"nothing to test in {os.fspath(root) or 'no folder (--config.pairs=FOLDER)'}: none of its datasets "
            f"({names}) has {split}.jsonl, or corpus.jsonl, queries.jsonl and {QRELS}"
        )
    return found


def list_datasets(root: str | os.PathLike) -> list[storage.Path]:
    """The folders in `root` that have records of any kind, by name; none where `root` is ""."""
    return find_datasets(root, "*")


def make_tasks(
    root: str | os.PathLike,
    preprocessor: Preprocessor,
    most: Budget,
    batch: int,
    candidates: Candidates = REPORT_CANDIDATES,
) -> tuple[Task, ...]:
    """One task a dataset with a train split: rates by the square root of its size, rows as large as its contents need.

    `most` is the largest row of a side. A dataset smaller than `batch` has a batch of its own size. One hard negative a
    query, where there are any. Raises FileNotFoundError where there is no dataset, DatasetError where one has no
    readable record.
    """
    return tuple(make_task(folder, preprocessor, most, batch, candidates) for folder in require_datasets(root, "train"))


def make_task(
    folder: storage.Path,
    preprocessor: Preprocessor,
    most: Budget,
    batch: int,
    candidates: Candidates = REPORT_CANDIDATES,
) -> Task:
    """The task of one dataset, as `make_tasks` has it. Raises FileNotFoundError and DatasetError."""
    source = open_split(folder, "train")
    records = sample_records(source, BUDGET_SAMPLE)
    queries = [record.query for record in records]
    targets = [side for record in records for side in (record.positive, *record.negatives[:1])]
    return Task(
        folder.name,
        min(batch, len(source)),
        len(source) ** 0.5,
        _budget(queries, preprocessor, most, folder),
        _budget(targets, preprocessor, most, folder),
        negatives=int(any(record.negatives for record in records)),
        candidates=candidates,
    )


def sample_records(source: Source, count: int) -> list[Record]:
    """Records drawn at random, the same ones always; those that cannot be read are left out: training will quarantine
    and count them."""
    found = []
    for i in np.sort(np.random.default_rng(0).permutation(len(source))[:count]):
        try:
            found.append(source[int(i)])
        except RecordError:
            continue
    return found


def with_packing(task: Task, folder: storage.Path, preprocessor: Preprocessor, group: int, row: int) -> Task:
    """The task with several inputs a row, groups of `group` pairs in rows of about `row` tokens, chosen by a sample of
    its dataset. Its batch must be a multiple of `group`, and the groups of a batch of the mesh's parts.

    Raises FileNotFoundError, and DatasetError where none of the records looked at can be decoded.
    """
    records, h = sample_records(open_split(folder, "train"), PACKING_SAMPLE), task.negatives
    queries: list[Content | None] = [record.query for record in records]
    targets: list[Content | None] = []
    for record in records:  # a record without hard negatives has padding for them, which takes no room
        targets += [
            record.positive,
            *(record.negatives[i % len(record.negatives)] if record.negatives else None for i in range(h)),
        ]
    kinds = []
    for contents, budget, each in ((queries, task.query, 1), (targets, task.target, 1 + h)):
        found = []
        for content in contents:
            try:
                pieces = content and truncate_to(
                    make_pieces(content, preprocessor, budget.patches or None), budget, preprocessor.tokenizer
                )
            except (MediaError, LimitError):
                continue
            found.append(measure_input(pieces or None, preprocessor))
        if not any(tokens for tokens, *_ in found):
            raise DatasetError(f"{folder}: none of the records looked at can be read and decoded")
        needed, count = np.array(found), group * each
        rows = max(round(needed[:, 0].mean() * count / row), 1)
        kinds.append(fit_rows(needed, count, rows, budget.patches, budget.frames))
    return dataclasses.replace(task, packing=Packing(group, *kinds))


def _budget(contents: list[Content], preprocessor: Preprocessor, most: Budget, folder: storage.Path) -> Budget:
    """The largest standard shape among the contents, none of its sizes above that of `most`."""
    shapes = []
    for content in contents:
        try:
            shapes.append(
                dataclasses.astuple(standard_budget(make_pieces(content, preprocessor), preprocessor.tokenizer))
            )
        except (MediaError, LimitError):
            continue
    if not shapes:
        raise DatasetError(f"{folder}: none of the records looked at can be read and decoded")
    return Budget(*np.minimum(np.max(shapes, axis=0), dataclasses.astuple(most)).tolist())
