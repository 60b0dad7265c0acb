"""Seeds from datasets: the real contents that a language model is asked about."""

from collections.abc import Iterator

from embed.data.modalities import Image, Text
from embed.data.sources import Source
from embed.synthesis.tasks import Seed


def passage_seeds(source: Source) -> Iterator[Seed]:
    """Yield the positives of a dataset that are text alone; their group is their language."""
    for i in range(len(source)):
        record = source[i]
        if all(isinstance(part, Text) for part in record.positive):
            yield Seed(record.id, record.positive, record.lang, record.lang)


def image_seeds(source: Source) -> Iterator[Seed]:
    """Yield the positives of a dataset that are one image, in one group."""
    for i in range(len(source)):
        record = source[i]
        if len(record.positive) == 1 and isinstance(record.positive[0], Image):
            yield Seed(record.id, record.positive, "", "en")


def label_seeds(source: Source) -> list[Seed]:
    """List the labels of a classification dataset, each with the text that stands for it; a label is its group."""
    record_by_label = {source[i].label: source[i] for i in range(len(source))}
    return [Seed(label, record.positive, label, record.lang) for label, record in record_by_label.items() if label]
