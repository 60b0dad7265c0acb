"""Sequences come in both orders and on one side; what is measured of them is the order alone."""

import numpy as np
import pytest

from embed.data.modalities import Text
from embed.eval.benchmarks import from_pairs
from embed.toy_corpora.scenes import render_scene, scenes_by_split
from embed.toy_corpora.sequences import sequence_records
from experiments.studies.order import order_accuracy


def test_every_sequence_has_its_other_order_and_a_side_of_its_own():
    where: dict = {}
    for split in ("train", "dev", "test"):
        found, pictures = list(sequence_records(split)), {render_scene(scene, 0) for scene in scenes_by_split()[split]}
        targets = {record.positive for record in found}
        assert len(targets) == len(found) > 50 and {record.lang for record in found} == {"en", "de", "es", "fr"}
        for record in found:
            first, word, second = record.positive
            assert record.negatives == ((second, word, first),) and record.negatives[0] in targets
            assert isinstance(word, Text) and f", {word.text} " in record.query[0].text
            assert {first, second} <= pictures
            assert where.setdefault(first, split) == split
    assert sum(len(scenes_by_split()[split]) for split in ("dev", "test")) == 356


def test_order_is_told_by_the_nearer_of_two():
    there, _ = from_pairs("order", list(sequence_records("test"))[:40])
    rng = np.random.default_rng(0)
    corpus = rng.normal(size=(len(there.corpus), 16)).astype(np.float32)
    right = [next(iter(grades)) for grades in there.relevance]
    place = {content: i for i, content in enumerate(there.corpus)}
    wrong = [place[there.corpus[i][::-1]] for i in right]
    assert order_accuracy(there, corpus[right], corpus) == 1 and order_accuracy(there, corpus[wrong], corpus) == 0
    both = corpus[np.minimum(np.arange(len(corpus)), [place[content[::-1]] for content in there.corpus])]  # no order
    assert order_accuracy(there, rng.normal(size=(len(right), 16)).astype(np.float32), both) == 0.5
    guesses = order_accuracy(there, rng.normal(size=(len(right), 16)).astype(np.float32), corpus)
    assert 0.2 < guesses < 0.8
    alone = [record for i, record in enumerate(sequence_records("test")) if i % 2 == 0]
    with pytest.raises(KeyError):
        order_accuracy(from_pairs("alone", alone, negatives=False)[0], corpus[: len(alone)], corpus[: len(alone)])
