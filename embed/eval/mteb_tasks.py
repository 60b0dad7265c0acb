"""A benchmark of one's own as a task of mteb: scored by mteb's protocol, for any of its models, without a download."""

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
ORDER = ("text", "image", "audio", "video")  # of a row's parts, as embed.eval.mteb reads them
LETTERS = {"video": "v", "image": "i", "audio": "a", "text": "t"}  # in the order of mteb's categories, "it2t"


def as_task(benchmark: Benchmark) -> AbsTaskRetrieval:
    """The benchmark as a retrieval task of the split "test".

    Raises ValueError where mteb cannot say it: a side's contents must be of the same kinds, each once, in the order
    text, image, audio, video, and both sides of a category it has. The others are for `benchmarks.score`.
    """
    sides = _dataset(benchmark.queries, "q", benchmark.name), _dataset(benchmark.corpus, "d", benchmark.name)
    kinds = [[kind for kind in ORDER if kind in data.features] for data in sides]
    category = "2".join("".join(letter for kind, letter in LETTERS.items() if kind in side) for side in kinds)
    if category not in get_args(TaskCategory):
        raise ValueError(f"{benchmark.name}: mteb has no category {category}: score it without mteb")
    plain = set(kinds[0] + kinds[1]) == {"text"}
    split = RetrievalSplitData(
        queries=sides[0],
        corpus=sides[1],
        relevant_docs={
            f"q{i}": {f"d{j}": grade for j, grade in grades.items()} for i, grades in enumerate(benchmark.relevance)
        },
        top_ranked=None,
    )

    class Own(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name=re.sub(r"\W+", "_", benchmark.name),
            description=f"{benchmark.name}: {len(benchmark.queries)} queries, {len(benchmark.corpus)} candidates",
            reference=None,
            dataset={"path": "none", "revision": "1"},
            type="Retrieval" if plain else "Any2AnyRetrieval",
            category=cast(Any, category),
            modalities=cast(Any, [kind for kind in ORDER if kind in kinds[0] + kinds[1]]),
            eval_splits=["test"],
            eval_langs=["eng-Latn"],  # mteb wants one, and says nothing by it
            main_score="ndcg_at_10",
        )

        def load_data(self, *about: Any, **more: Any) -> None:
            self.dataset, self.data_loaded = {"default": {"test": split}}, True

    return Own()


def _dataset(contents: Sequence[Content], prefix: str, name: str) -> datasets.Dataset:
    kinds = [modality_of(part).name for part in contents[0]]
    for content in contents:
        found = [modality_of(part).name for part in content]
        if found != kinds or found != [kind for kind in ORDER if kind in found]:
            raise ValueError(
                f"{name}: mteb has no place for {', '.join(found)} beside {', '.join(kinds)}: score it here"
            )
    columns: dict[str, list] = {"id": [f"{prefix}{i}" for i in range(len(contents))]}
    for i, kind in enumerate(kinds):
        values = [content[i] for content in contents]
        columns[kind] = [part.text if isinstance(part, Text) else {"bytes": part.data, "path": None} for part in values]
    data = datasets.Dataset.from_dict(columns)
    for kind in kinds:
        if kind != "text":
            data = data.cast_column(kind, FEATURES[kind](decode=False))
    return data
