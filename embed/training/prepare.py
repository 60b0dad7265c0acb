"""From a config's folders to what training needs: corpora built, a tokenizer trained on them, sources opened."""

import logging
from collections.abc import Iterator, Sequence

from embed import toy_corpora
from embed.data import discover, prompts
from embed.data.preprocess import Preprocessor
from embed.data.records import RecordError
from embed.data.sources import Source, open_split
from embed.data.tasks import Task, collect_texts
from embed.data.tokenizer import train_tokenizer
from embed.distributed import hosts, storage
from embed.model.config import Architecture

log = logging.getLogger(__name__)
SAMPLE = 1500  # records of each dataset that the tokenizer is trained on


def prepare_preprocessor(arch: Architecture, data: storage.Path, pairs: str = "") -> Preprocessor:
    """The layout of `arch` with the tokenizer in `data`; corpora and tokenizer are made first where they are missing.

    A tokenizer that is made learns from the datasets under `pairs` too, where there are some. Raises ValueError where
    the one in `data` has more ids than `arch` has rows.
    """
    path = data / "tokenizer.json"
    with hosts.primary_first("corpora and tokenizer"):
        toy_corpora.build(data)
        if not path.exists():
            _train_tokenizer(path, arch, data, pairs)
    return Preprocessor.load(path, arch)


def _train_tokenizer(path: storage.Path, arch: Architecture, data: storage.Path, pairs: str) -> None:
    log.info("training a tokenizer of %d ids", arch.vocab_size)
    sample: list[str] = [prompts.QUERY.format(task=task, text="") for task in prompts.QUERY_TASKS] * 50
    sample += [prompts.DOCUMENT.format(title="none", text="")] * 50
    for folder in [data / name for name in toy_corpora.CORPORA] + (
        discover.require_datasets(pairs, "train") if pairs else []
    ):
        sample += _texts(open_split(folder, "train"))
    train_tokenizer(sample, arch.vocab_size).save(path)


def _texts(source: Source) -> Iterator[str]:
    """The texts of the first records; what cannot be read is left out: training will quarantine and count it."""
    for i in range(min(SAMPLE, len(source))):
        try:
            yield from collect_texts(source[i])
        except RecordError:
            continue


def open_sources(tasks: Sequence[Task], data: storage.Path, split: str = "train") -> list[Source]:
    """One source a task, from `data/<task name>`. Raises FileNotFoundError where a dataset is not there."""
    return [open_split(data / task.name, split) for task in tasks]
