"""A published text encoder as a teacher: its vectors of every text that a run trains on."""

import os

import numpy as np

from embed.data import discover
from embed.data.modalities import Content, Text
from embed.data.records import content_hash
from embed.data.sources import open_split, read_records
from embed.eval.baselines.dense import DenseRetriever
from embed.eval.baselines.retriever import Texts, read_texts
from embed.losses.distillation import TeacherTable


def embed_training_texts(teacher: DenseRetriever, root: str | os.PathLike) -> TeacherTable:
    """Embed the texts of every train split under `root`, queries as queries, the others as documents.

    Contents with other media are left out. Vectors are cached by content and weights. Raises FileNotFoundError where
    there is no dataset, RecordError for a record that cannot be read.
    """
    sides: tuple[dict[bytes, Content], dict[bytes, Content]] = ({}, {})  # queries and documents, by hash
    for folder in discover.require_datasets(root, "train"):
        for record in read_records(open_split(folder, "train")):
            for side, contents in zip(sides, ((record.query,), (record.positive, *record.negatives)), strict=True):
                texts = [content for content in contents if all(isinstance(part, Text) for part in content)]
                side.update((content_hash(content).tobytes(), content) for content in texts)
    queries, documents = sides
    documents = {key: content for key, content in documents.items() if key not in queries}
    vectors = [
        teacher.embed(Texts(read_texts(list(side.values()), str, None), is_document))
        for side, is_document in ((queries, False), (documents, True))
    ]
    hashes = np.frombuffer(b"".join([*queries, *documents]), np.uint32).reshape(-1, 2)
    return TeacherTable(hashes, np.concatenate(vectors))
