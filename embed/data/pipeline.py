"""`batch = mixture[step]`: the data as a pure function of (seed, step), whatever the workers, hosts and history.

The step is the only cursor: resuming is a slice. Rows keep their places whatever the number of hosts, so a run goes on
bit-exactly on another number of them.
"""

from collections.abc import Iterator, Sequence

import grain
import numpy as np

from embed.data.layout import Layout
from embed.data.sources import Source
from embed.data.tasks import Task, make_pairs
from embed.inputs import Pairs

ENDLESS = 2**60  # records
Batch = tuple[int, Pairs]  # which task, its pairs (numpy, this host's rows)


def mixture(
    tasks: Sequence[Task],
    sources: Sequence[Source],
    layout: Layout,
    seed: int,
    lines: Sequence[int] = (0,),
    of: int = 1,
) -> grain.MapDataset:
    """Endless task-pure batches, tasks interleaved at their rates; element `step` is a Batch of this host's rows:
    those `lines` of the `of` equal parts of every batch (see `mesh.lines`).

    Raises ValueError where a batch does not divide into so many parts or a source is empty.
    """
    streams = [
        _stream(number, task, source, layout, seed, lines, of)
        for number, (task, source) in enumerate(zip(tasks, sources, strict=True))
    ]
    return grain.MapDataset.mix(streams, weights=[task.rate for task in tasks])


def _stream(
    number: int, task: Task, source: Source, layout: Layout, seed: int, lines: Sequence[int], of: int
) -> grain.MapDataset:
    if task.groups % of:
        kind = "groups of pairs" if task.packing else "pairs"
        raise ValueError(
            f"task {task.name}: a batch of {task.groups} {kind} does not divide into the {of} parts of the mesh"
        )
    if not len(source):
        raise ValueError(f"task {task.name}: its source is empty")
    parts = np.arange(task.batch).reshape(of, -1)

    def read(keys: np.ndarray) -> Batch:
        return number, make_pairs(task, layout, source, keys[parts[list(lines)].reshape(-1)])

    epochs = ENDLESS // len(source)  # repeat() alone may be longer than a length can be
    indices = grain.MapDataset.range(len(source)).seed(seed + number).shuffle().repeat(epochs)
    keys = indices.random_map(lambda index, rng: np.array([index, rng.integers(2**31)]))
    return keys.batch(task.batch).map(read)


def batches(data: grain.MapDataset, start: int, stop: int, workers: int) -> Iterator[Batch]:
    """Batches `start`..`stop`-1 in order, read ahead by `workers` processes (0 = threads of this one)."""
    reading = data[start:stop].to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))
    if workers:
        reading = reading.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2))
    return iter(reading)
