"""Discover datasets in a folder, and make tasks that fit what is in them."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from embed.batch import REPORT_CANDIDATES, Candidates
from embed.data import prompts
from embed.data.budget import Budget, Input, standard_budget
from embed.data.media.decode import MediaError
from embed.data.modalities import Content
from embed.data.packing import PackedRows, Packing, fit_rows, measure_input
from embed.data.pieces import LimitError
from embed.data.preprocess import Preprocessor, make_pieces
from embed.data.qrels import QRELS
from embed.data.records import Record, RecordError
from embed.data.sources import SIMILARITY_SPLITS, Source, open_split
from embed.data.tasks import BadRecord, Task, make_example
from embed.distributed import storage

BUDGET_SAMPLE = 64  # records that decide the size of a dataset's rows
PACKING_SAMPLE = 1024  # records that decide packed rows: sums vary more than a maximum
SEPARATORS = ":,|"  # in the names that results and tables derive from a dataset's


class DatasetError(ValueError):
    """A dataset that cannot be used as requested; the message names it and what is missing."""


def _split_patterns(split: str) -> tuple[str, ...]:
    return f"{split}.jsonl", f"{split}.array_record", f"{split}-00000-of-*.array_record"


def has_split(folder: storage.Path, split: str) -> bool:
    """Whether the folder has records of a split."""
    return any(True for pattern in _split_patterns(split) for _ in folder.glob(pattern))


def find_datasets(root: str | os.PathLike, split: str) -> list[storage.Path]:
    """Find the folders in `root` that have records of a split, by name; [] where `root` is ""."""
    patterns = _split_patterns(split) if os.fspath(root) else ()
    return sorted({path.parent for pattern in patterns for path in storage.path(root).glob(f"*/{pattern}")})


def require_datasets(root: str | os.PathLike, split: str) -> list[storage.Path]:
    """Find datasets as `find_datasets` does. Raises FileNotFoundError where there are none."""
    folders = find_datasets(root, split)
    if not folders:
        place = os.fspath(root) or "'' (no folder was given: --config.pairs=FOLDER)"
        raise FileNotFoundError(f"no dataset in {place}: expected NAME/{split}.jsonl or NAME/{split}.array_record")
    return folders


def list_datasets(root: str | os.PathLike) -> list[storage.Path]:
    """List the folders in `root` that have records of any split, by name; [] where `root` is ""."""
    return find_datasets(root, "*")


def has_benchmark(folder: storage.Path) -> bool:
    """Whether the folder has a benchmark: `corpus`, `queries` and qrels.tsv. A corpus alone is for mining.

    Raises DatasetError where it has queries or judgments but not all three.
    """
    judged = {"queries": has_split(folder, "queries"), QRELS: (folder / QRELS).exists()}
    present = judged | {"corpus": has_split(folder, "corpus")}
    if any(judged.values()) and not all(present.values()):
        files = [name if name == QRELS else f"{name}.jsonl" for name, is_present in present.items() if not is_present]
        raise DatasetError(
            f"{folder}: a benchmark is corpus.jsonl, queries.jsonl and {QRELS}, but there is no {', '.join(files)}; "
            "python -m embed build writes all three from a BEIR folder"
        )
    return all(present.values())


def require_benchmarks(root: str | os.PathLike, split: str = "test") -> list[storage.Path]:
    """Find the folders in `root` that can be evaluated, by name: with pairs of a split, graded pairs, or a benchmark.

    Raises DatasetError where there are none, where a split is empty or a benchmark incomplete, and for a name that
    results and tables could not separate.
    """
    folders = []
    for folder in list_datasets(root):
        splits = [name for name in (split, SIMILARITY_SPLITS[split]) if has_split(folder, name)]
        if not has_benchmark(folder) and not splits:
            continue
        for name in splits:
            if not len(open_split(folder, name)):
                raise DatasetError(f"{folder}: the split {name} is empty: there is nothing to evaluate")
        if any(separator in folder.name for separator in SEPARATORS):
            raise DatasetError(f"{folder}: a dataset's name must not contain {' '.join(SEPARATORS)}: rename the folder")
        folders.append(folder)
    if not folders:
        names = ", ".join(folder.name for folder in list_datasets(root)) or "none"
        raise DatasetError(
            f"nothing to evaluate in {os.fspath(root) or 'no folder (--config.pairs=FOLDER)'}: none of its datasets "
            f"({names}) has {split}.jsonl, or corpus.jsonl, queries.jsonl and {QRELS}, or "
            f"{SIMILARITY_SPLITS[split]}.jsonl"
        )
    return folders


def make_tasks(
    root: str | os.PathLike,
    preprocessor: Preprocessor,
    max_budget: Budget,
    batch: int,
    candidates: Candidates = REPORT_CANDIDATES,
) -> tuple[Task, ...]:
    """Make a task of each dataset in `root` with a train split.

    Its weight is the square root of its size; its rows are as large as its contents need, at most `max_budget`; a
    dataset smaller than `batch` gets a batch of its own size; each query has one hard negative, where there are any.
    Raises FileNotFoundError where there is no dataset, DatasetError for one without a readable record.
    """
    folders = require_datasets(root, "train")
    return tuple(make_task(folder, preprocessor, max_budget, batch, candidates) for folder in folders)


def make_task(
    folder: storage.Path,
    preprocessor: Preprocessor,
    max_budget: Budget,
    batch: int,
    candidates: Candidates = REPORT_CANDIDATES,
) -> Task:
    """Make the task of one dataset, as `make_tasks` does. Raises FileNotFoundError and DatasetError."""
    source = open_split(folder, "train")
    records = sample_records(source, BUDGET_SAMPLE)
    queries = [record.query for record in records]
    targets = [side for record in records for side in (record.positive, *record.negatives[:1])]
    return Task(
        folder.name,
        min(batch, len(source)),
        len(source) ** 0.5,
        _fit_budget(queries, preprocessor, max_budget, folder),
        _fit_budget(targets, preprocessor, max_budget, folder),
        negatives=int(any(record.negatives for record in records)),
        candidates=candidates,
    )


def make_graded_tasks(
    root: str | os.PathLike, preprocessor: Preprocessor, max_budget: Budget, batch: int
) -> tuple[Task, ...]:
    """Make a task of each dataset in `root` with graded pairs to train on, sts_train.jsonl, sized as by `make_tasks`.

    Both sides take the task string `sentence similarity`. Raises FileNotFoundError where there is no dataset,
    DatasetError for one without a readable record, and for one that also has a train split: tasks have the names of
    datasets.
    """
    folders = require_datasets(root, SIMILARITY_SPLITS["train"])
    if doubled := [folder for folder in folders if has_split(folder, "train")]:
        raise DatasetError(f"{doubled[0]}: train and sts_train are two tasks: put the graded pairs in another folder")
    return tuple(_make_graded_task(folder, preprocessor, max_budget, batch) for folder in folders)


def _make_graded_task(folder: storage.Path, preprocessor: Preprocessor, max_budget: Budget, batch: int) -> Task:
    split = SIMILARITY_SPLITS["train"]
    source = open_split(folder, split)
    sides = [side for record in sample_records(source, BUDGET_SAMPLE) for side in (record.query, record.positive)]
    prompted = [prompts.as_query(side, prompts.SIMILARITY) for side in sides]
    budget = _fit_budget(prompted, preprocessor, max_budget, folder)
    size = len(source)
    return Task(folder.name, min(batch, size), size**0.5, budget, budget, prompt=prompts.SIMILARITY, split=split)


def sample_records(source: Source, count: int) -> list[Record]:
    """Draw records at random, always the same ones. Unreadable ones are skipped: training quarantines them."""
    records = []
    for index in sample_indices(len(source), count):
        try:
            records.append(source[index])
        except RecordError:
            continue
    return records


def sample_indices(size: int, count: int) -> list[int]:
    """Draw at most `count` of the indices 0..size-1 at random, always the same ones, in order."""
    return np.sort(np.random.default_rng(0).permutation(size)[:count]).tolist()


def with_packing(task: Task, folder: storage.Path, preprocessor: Preprocessor, group: int, row: int) -> Task:
    """Pack a task: groups of `group` pairs in rows of about `row` tokens, sized by a sample of its dataset.

    The task's batch must be a multiple of `group`, and its groups a multiple of the mesh's parts. Raises
    FileNotFoundError, and DatasetError where no record of the sample can be decoded.
    """
    source = open_split(folder, task.split)
    queries: list[Input] = []
    targets: list[Input] = []
    for index in sample_indices(len(source), PACKING_SAMPLE):
        try:
            example = make_example(task, preprocessor, source, index, seed=index)
        except BadRecord:
            continue
        queries.append(example.query)
        targets += [example.target, *example.negatives]  # a missing negative is padding, which takes no room
    if not queries:
        raise DatasetError(f"{folder}: no record of the sample can be read and decoded")
    return dataclasses.replace(
        task,
        packing=Packing(
            group,
            query=_fit_packed_rows(queries, task.query, preprocessor, group, row),
            target=_fit_packed_rows(targets, task.target, preprocessor, group * (1 + task.negatives), row),
        ),
    )


def _fit_packed_rows(
    sample: Sequence[Input], budget: Budget, preprocessor: Preprocessor, inputs: int, row: int
) -> PackedRows:
    """Size the rows for groups of `inputs` inputs, about `row` tokens long."""
    sizes = np.array([measure_input(pieces, preprocessor) for pieces in sample])
    count = max(round(sizes[:, 0].mean() * inputs / row), 1)
    return fit_rows(sizes, inputs, count, budget.patches, budget.frames)


def _fit_budget(
    contents: list[Content], preprocessor: Preprocessor, max_budget: Budget, folder: storage.Path
) -> Budget:
    """The largest standard shape among the contents, each size at most that of `max_budget`. Raises DatasetError."""
    shapes = []
    for content in contents:
        try:
            budget = standard_budget(make_pieces(content, preprocessor), preprocessor.tokenizer)
        except (MediaError, LimitError):
            continue
        shapes.append(dataclasses.astuple(budget))
    if not shapes:
        raise DatasetError(f"{folder}: no record of the sample can be read and decoded")
    return Budget(*np.minimum(np.max(shapes, axis=0), dataclasses.astuple(max_budget)).tolist())
