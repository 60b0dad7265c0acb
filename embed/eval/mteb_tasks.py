"""Your own benchmark as a task of mteb: scored by mteb's protocol, for any of its models, without a download."""

import re
from collections.abc import Sequence
from typing import Any, cast, get_args

import datasets
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskCategory, TaskMetadata

from embed.data.modalities import Content, Text, modality_of
from embed.eval.benchmarks import Benchmark

FEATURES = {"image": datasets.Image, "audio": datasets.Audio, "video": datasets.Video}
ORDER = ("text", "image", "audio", "video")  # of a row's parts in embed.eval.mteb
LETTERS = {"video": "v", "image": "i", "audio": "a", "text": "t"}  # in the order of mteb's categories, "it2t"


def as_task(benchmark: Benchmark) -> AbsTaskRetrieval:
    """Convert a benchmark to a retrieval task with the split "test".

    Raises ValueError where mteb's schema cannot express it: all contents of a side must have the same modalities, each
    once, in the order text, image, audio, video, and mteb must have the category. Score others with `benchmarks.score`.
    """
    queries = _make_dataset(benchmark.queries, "q", benchmark.name)
    corpus = _make_dataset(benchmark.corpus, "d", benchmark.name)
    modalities = [[name for name in ORDER if name in data.features] for data in (queries, corpus)]
    category = "2".join("".join(letter for name, letter in LETTERS.items() if name in side) for side in modalities)
    if category not in get_args(TaskCategory):
        raise ValueError(f"{benchmark.name}: mteb has no category {category}: score it without mteb")
    is_text = set(modalities[0] + modalities[1]) == {"text"}
    split = RetrievalSplitData(
        queries=queries,
        corpus=corpus,
        relevant_docs={
            f"q{i}": {f"d{j}": grade for j, grade in grades.items()} for i, grades in enumerate(benchmark.relevance)
        },
        top_ranked=None,
    )

    class BenchmarkTask(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name=re.sub(r"\W+", "_", benchmark.name),
            description=f"{benchmark.name}: {len(benchmark.queries)} queries, {len(benchmark.corpus)} candidates",
            reference=None,
            dataset={"path": "none", "revision": "1"},
            type="Retrieval" if is_text else "Any2AnyRetrieval",
            category=cast(Any, category),
            modalities=cast(Any, [name for name in ORDER if name in modalities[0] + modalities[1]]),
            eval_splits=["test"],
            eval_langs=["eng-Latn"],  # required by mteb, without effect here
            main_score="ndcg_at_10",
        )

        def load_data(self, *about: Any, **more: Any) -> None:
            self.dataset, self.data_loaded = {"default": {"test": split}}, True

    return BenchmarkTask()


def _make_dataset(contents: Sequence[Content], prefix: str, dataset: str) -> datasets.Dataset:
    modalities = [modality_of(part).name for part in contents[0]]
    for content in contents:
        names = [modality_of(part).name for part in content]
        if names != modalities or names != [name for name in ORDER if name in names]:
            raise ValueError(
                f"{dataset}: mteb cannot express {', '.join(names)} beside {', '.join(modalities)}: score it without it"
            )
    columns: dict[str, list] = {"id": [f"{prefix}{i}" for i in range(len(contents))]}
    for i, modality in enumerate(modalities):
        values = [content[i] for content in contents]
        columns[modality] = [
            part.text if isinstance(part, Text) else {"bytes": part.data, "path": None} for part in values
        ]
    data = datasets.Dataset.from_dict(columns)
    for modality in modalities:
        if modality != "text":
            data = data.cast_column(modality, FEATURES[modality](decode=False))
    return data
