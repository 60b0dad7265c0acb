"""From a config's folders to what training needs: corpora, a tokenizer trained on them, opened sources."""

import dataclasses
import logging
from collections.abc import Iterator, Sequence

from ml_collections import ConfigDict

from embed import hf, toy_corpora
from embed.data import discover, prompts
from embed.data.preprocess import Preprocessor
from embed.data.records import RecordError
from embed.data.sources import Source, open_split
from embed.data.tasks import Task, collect_texts
from embed.data.tokenizer import train_tokenizer
from embed.distributed import hosts, storage
from embed.model.config import Architecture
from embed.training.pretrained import load_pretrained_preprocessor, locate_pretrained
from embed.training.run import Run

log = logging.getLogger(__name__)
SAMPLE = 1500  # records of each dataset to train the tokenizer on


def preprocessor_for(run: Run, config: ConfigDict) -> Preprocessor:
    """Return the preprocessor that a run trains with, as `make_preprocessor` makes it; a run that starts from a
    published model takes the model's own tokenizer."""
    if config.pretrained or run.init is None or not (run.init / "config.json").exists():
        return make_preprocessor(run.encoder.arch, config)
    _build_corpora(config)
    return load_pretrained_preprocessor(hf.resolve(run.init))


def make_preprocessor(arch: Architecture, config: ConfigDict) -> Preprocessor:
    """Return the preprocessor of `arch`: with the tokenizer of the foundation model `config.pretrained`, else with the
    one in `config.data`; builds missing corpora and tokenizer first.

    Raises ConfigError where `config.pretrained` cannot be used, and as `prepare_preprocessor` does.
    """
    if not config.pretrained:
        return prepare_preprocessor(arch, storage.path(config.data), config.pairs)
    _build_corpora(config)
    return dataclasses.replace(load_pretrained_preprocessor(locate_pretrained(config.pretrained)), media=arch.media)


def _build_corpora(config: ConfigDict) -> None:
    with hosts.primary_first("corpora"):
        toy_corpora.build(storage.path(config.data))


def prepare_preprocessor(arch: Architecture, data: storage.Path, pairs: str = "") -> Preprocessor:
    """Return the preprocessor of `arch` with the tokenizer in `data`; builds missing corpora and tokenizer first.

    A new tokenizer is trained on the datasets under `pairs` too. Raises ValueError where the tokenizer in `data` has
    more ids than `arch` has rows.
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
    folders = [data / name for name in toy_corpora.CORPORA]
    folders += discover.require_datasets(pairs, "train") if pairs else []
    for folder in folders:
        sample += _texts(open_split(folder, "train"))
    train_tokenizer(sample, arch.vocab_size).save(path)


def _texts(source: Source) -> Iterator[str]:
    """Yield the texts of the first records. Skips unreadable ones: training will quarantine and count them."""
    for i in range(min(SAMPLE, len(source))):
        try:
            yield from collect_texts(source[i])
        except RecordError:
            continue


def open_sources(tasks: Sequence[Task], data: storage.Path) -> list[Source]:
    """Open the split of `data/NAME` that each task trains on. Raises FileNotFoundError where one is missing."""
    return [open_split(data / task.name, task.split) for task in tasks]
