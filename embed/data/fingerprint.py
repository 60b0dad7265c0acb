"""Fingerprints of datasets, so that a run resumes only over the data it was started with."""

import hashlib
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from embed.data.records import RecordError, content_hash
from embed.data.sources import ArrayRecordSource, JsonlSource, Source
from embed.data.tasks import Task

SAMPLE = 256  # records that are read
MAX_BYTES = 2**30  # bytes of a dataset's files that are read at most
BLOCK = 2**20


def describe_datasets(tasks: Sequence[Task], sources: Sequence[Source]) -> dict[str, Any]:
    """Describe every task's dataset by name, its number of records and its fingerprint, as plain JSON."""
    described = {}
    for task, source in zip(tasks, sources, strict=True):
        described[task.name] = {"records": len(source), "fingerprint": fingerprint(source)}
    return described


def fingerprint(source: Source) -> str:
    """Hash a dataset's records in their order, independent of where its files are and when they were written.

    Files are hashed completely up to MAX_BYTES; of larger datasets, the sizes and evenly spaced blocks of as many bytes
    are hashed. Media beside a JSONL file, and records made when they are read, are covered by SAMPLE evenly spaced
    records. Nothing is decoded.
    """
    digest = hashlib.blake2b(digest_size=16)
    files = source.files if isinstance(source, JsonlSource | ArrayRecordSource) else []
    sizes = [os.path.getsize(file) for file in files]
    digest.update(f"{len(source)} {sizes}".encode())
    stride = BLOCK * max(math.ceil(sum(sizes) / MAX_BYTES), 1)
    for file, size in zip(files, sizes, strict=True):
        with pathlib.Path(file).open("rb") as opened:
            for start in range(0, size, stride):
                opened.seek(start)
                digest.update(opened.read(BLOCK))
    if not isinstance(source, ArrayRecordSource):
        for index in np.linspace(0, len(source) - 1, min(SAMPLE, len(source))).astype(int).tolist():
            digest.update(_hash_record(source, index))
    return digest.hexdigest()


def _hash_record(source: Source, index: int) -> bytes:
    try:
        record = source[index]
    except RecordError:
        return b"bad"
    contents = (record.query, record.positive, *record.negatives)
    return b"".join(content_hash(content).tobytes() for content in contents)
