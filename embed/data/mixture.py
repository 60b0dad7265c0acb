"""`batch = mixture[step]`: the data as a pure function of (seed, step), whatever the workers, hosts and history.

The step is the only cursor: resuming is a slice. Rows keep their places whatever the number of hosts, so a run goes on
bit-exactly on another number of them.
"""

from collections.abc import Iterator, Sequence

import grain
import numpy as np

from embed.batch import Pairs
from embed.data.preprocess import Preprocessor
from embed.data.sources import Source
from embed.data.tasks import Task, make_pairs

ENDLESS = 2**60  # records
Batch = tuple[int, Pairs]  # which task, its pairs (numpy, this host's rows)


def task_order(tasks: Sequence[Task], sources: Sequence[Source], seed: int) -> grain.MapDataset:
    """Which records are read at each step, tasks interleaved by their weights: element `step` is (which task, its keys
    i64[batch,2]: a record's index, and the seed of its own randomness). Endless, the same on every host.

    Raises ValueError where a source is empty.
    """
    streams = [_keys(*one, seed) for one in zip(range(len(tasks)), tasks, sources, strict=True)]
    return grain.MapDataset.mix(streams, weights=[task.weight for task in tasks])


def _keys(number: int, task: Task, source: Source, seed: int) -> grain.MapDataset:
    if not len(source):
        raise ValueError(f"task {task.name}: its source is empty")
    epochs = ENDLESS // len(source)  # repeat() alone may be longer than a length can be
    indices = grain.MapDataset.range(len(source)).seed(seed + number).shuffle().repeat(epochs)
    keys = indices.random_map(lambda index, rng: np.array([index, rng.integers(2**31)]))
    return keys.batch(task.batch).map(lambda batch: (number, batch))


def mixture(
    tasks: Sequence[Task],
    sources: Sequence[Source],
    preprocessor: Preprocessor,
    seed: int,
    lines: Sequence[int] = (0,),
    of: int = 1,
) -> grain.MapDataset:
    """The batches of `task_order`; element `step` is a Batch of this host's rows: those `lines` of the `of` equal parts of
    every batch (see `mesh.lines`).

    Raises ValueError where a batch does not divide into so many parts or a source is empty.
    """
    for task in tasks:
        if task.groups % of:
            kind = "groups of pairs" if task.packing else "pairs"
            raise ValueError(
                f"task {task.name}: a batch of {task.groups} {kind} does not divide into the {of} parts of the mesh"
            )

    def read(drawn: tuple[int, np.ndarray]) -> Batch:
        number, keys = drawn
        here = np.arange(len(keys)).reshape(of, -1)[list(lines)].reshape(-1)
        return number, make_pairs(tasks[number], preprocessor, sources[number], keys[here])

    return task_order(tasks, sources, seed).map(read)


def iterate_batches(data: grain.MapDataset, start: int, stop: int, workers: int) -> Iterator[Batch]:
    """Batches `start`..`stop`-1 in order, read ahead by `workers` processes (0 = threads of this one)."""
    reading = data[start:stop].to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))
    if workers:
        reading = reading.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2))
    return iter(reading)
