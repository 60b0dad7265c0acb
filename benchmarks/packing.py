"""Packed batches beside padded ones, of your own datasets: the share of padding, and pairs a second of a training step.

  python -m benchmarks.packing FOLDER [NAME ...] [--pairs=64] [--group=64] [--row=256] [--rounds=5]

Of every dataset under FOLDER with a train split (or of those named): its task as experiments/own_data.py has it, and the
same packed into rows of about `row` tokens. The tiny model on this host; both steps in turn, medians. The tokenizer is
trained on the datasets themselves. `lost` are pairs that found no room, which pairs a second do not count.
"""

import argparse
import dataclasses
import statistics
import time

import jax

from configs import cpu
from embed.data import discover, tokenizer
from embed.data.mixture import mixture
from embed.data.preprocess import Preprocessor
from embed.data.sources import open_split
from embed.data.tasks import Task, texts
from embed.distributed import mesh, storage
from embed.model.presets import PRESETS
from embed.training.start import initial_state, state_structs
from embed.training.step import make_step
from experiments import own_data

READ = 1 << 16  # records the tokenizer is trained on at most: those it has not seen come out longer


def measure(tasks: tuple[Task, Task], folder: storage.Path, preprocessor: Preprocessor, rounds: int) -> str:
    """A row of the table, of a padded and a packed task of one dataset."""
    config = cpu.get_config()
    run = own_data.plan(config, tasks)
    step, key = make_step(run.loss, run.optimizer, run.trainable), jax.random.key(0)
    state = initial_state(dataclasses.replace(run, init=None), state_structs(run)[0], preprocessor)
    source, seconds, padding, lost = open_split(folder, "train"), ([], []), ([], []), 0.0
    for number in range(rounds + 1):  # the first compiles
        for i, task in enumerate(tasks):
            batch = mesh.to_global(mixture([task], [source], preprocessor, 0)[number][1])
            start = time.perf_counter()
            state, metrics = step(state, batch, task.candidates, key)
            jax.block_until_ready(state)
            if number:
                seconds[i].append(time.perf_counter() - start)
                padding[i].append(float(metrics["padding"]))
                lost += float(metrics["overflowed"]) / rounds
    rates = [task.batch / statistics.median(taken) for task, taken in zip(tasks, seconds, strict=True)]
    rates[1] *= 1 - lost / tasks[1].batch
    before, after = (statistics.mean(one) for one in padding)
    cells = [folder.name, f"{before:.1%}", f"{after:.1%}", f"{(1 - after) / (1 - before):.2f}"]
    cells += [f"{lost / tasks[1].batch:.2%}", *(f"{rate:.1f}" for rate in rates), f"{rates[1] / rates[0]:.2f}"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("names", nargs="*")
    for name, value in (("pairs", 64), ("group", 64), ("row", 256), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    found = [
        folder
        for folder in discover.require_datasets(given.folder, "train")
        if folder.name in given.names or not given.names
    ]
    arch = PRESETS[cpu.get_config().model]
    records = (record for folder in found for record in discover.sample(open_split(folder, "train"), READ))
    words = [text for record in records for text in texts(record)]
    preprocessor = Preprocessor(tokenizer.train_tokenizer(words, arch.vocab_size), arch.media)
    print("| dataset | padding | packed | fewer tokens, times | lost | pairs/s | packed | ratio |\n" + "|---" * 8 + "|")
    with jax.set_mesh(mesh.make_mesh((1, 1, 1))):
        for folder in found:
            task = discover.make_task(folder, preprocessor, own_data.MOST, given.pairs, own_data.BOTH)
            task = dataclasses.replace(task, batch=given.pairs)
            both = task, discover.with_packing(task, folder, preprocessor, given.group, given.row)
            print(measure(both, folder, preprocessor, given.rounds), flush=True)


if __name__ == "__main__":
    main()
