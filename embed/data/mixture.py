"""`batch = mixture[step]`: the data is a pure function of (seed, step), whatever the workers, hosts and history.

The step is the only cursor: resuming is a slice. Rows keep their places whatever the number of hosts, so that a run
resumes bit for bit on another number of them.
"""

from collections.abc import Iterator, Sequence

import grain
import numpy as np

from embed.batch import Pairs
from embed.data.preprocess import Preprocessor
from embed.data.sources import Source
from embed.data.tasks import Task, make_pairs

ENDLESS = 2**60  # records
Batch = tuple[int, Pairs]  # the number of the task, its pairs (numpy, this host's rows)


def task_order(tasks: Sequence[Task], sources: Sequence[Source], seed: int) -> grain.MapDataset:
    """Choose each step's records, with tasks drawn by their weights; endless, and the same on every host.

    Element `step` is (the task's number, i64[batch,2]): a record's index and the seed of its own randomness. Raises
    ValueError where a source is empty.
    """
    keys = [
        _record_keys(number, task, source, seed)
        for number, (task, source) in enumerate(zip(tasks, sources, strict=True))
    ]
    return grain.MapDataset.mix(keys, weights=[task.weight for task in tasks])


def _record_keys(number: int, task: Task, source: Source, seed: int) -> grain.MapDataset:
    if not len(source):
        raise ValueError(f"task {task.name}: its source is empty")
    epochs = ENDLESS // len(source)  # repeat() without a number overflows the dataset's length
    indices = grain.MapDataset.range(len(source)).seed(seed + number).shuffle().repeat(epochs)
    keys = indices.random_map(lambda index, rng: np.array([index, rng.integers(2**31)]))
    return keys.batch(task.batch).map(lambda batch: (number, batch))


def mixture(
    tasks: Sequence[Task],
    sources: Sequence[Source],
    preprocessor: Preprocessor,
    seed: int,
    shards: Sequence[int] = (0,),
    num_shards: int = 1,
) -> grain.MapDataset:
    """Make the batches of `task_order`: element `step` is a Batch of this host's rows.

    These are the `shards` of the `num_shards` equal parts of every batch (see `mesh.local_batch_shards`). Raises
    ValueError where a batch does not divide into that many parts or a source is empty.
    """
    for task in tasks:
        if task.groups % num_shards:
            units = "groups of pairs" if task.packing else "pairs"
            raise ValueError(
                f"task {task.name}: a batch of {task.groups} {units} does not divide into the mesh's {num_shards} parts"
            )

    def read(element: tuple[int, np.ndarray]) -> Batch:
        number, keys = element
        rows = np.arange(len(keys)).reshape(num_shards, -1)[list(shards)].reshape(-1)
        return number, make_pairs(tasks[number], preprocessor, sources[number], keys[rows])

    return task_order(tasks, sources, seed).map(read)


def iterate_batches(data: grain.MapDataset, start: int, stop: int, workers: int) -> Iterator[Batch]:
    """Yield batches `start`..`stop`-1 in order, prefetched by `workers` processes (0: threads of this process)."""
    dataset = data[start:stop].to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))
    if workers:
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2))
    return iter(dataset)
