"""Packed batches beside padded ones, on your own datasets: padding, and pairs per second of a training step.

  python -m benchmarks.packing FOLDER [NAME ...] [--pairs=64] [--group=64] [--row=256] [--rounds=5]

For every dataset under FOLDER with a train split (or those named), times a step of the tiny model on this host: on the
task of experiments/own_data.py, and on the same task packed into rows of about ROW tokens, in turn. Prints medians. The
tokenizer is trained on the datasets. `lost` is the share of pairs that did not fit; pairs per second leave them out.
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
from embed.data.tasks import Task, collect_texts
from embed.distributed import mesh, storage
from embed.model.presets import PRESETS
from embed.training.start import initial_state, state_structs
from embed.training.step import make_step
from experiments import own_data

MAX_RECORDS = 1 << 16  # that the tokenizer is trained on: unseen words become more tokens


def measure(tasks: tuple[Task, Task], folder: storage.Path, preprocessor: Preprocessor, rounds: int) -> str:
    """Return a row of the table, for a padded and a packed task of one dataset."""
    config = cpu.get_config()
    run = own_data.plan(config, tasks=tasks)
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
    rates = [task.batch / statistics.median(times) for task, times in zip(tasks, seconds, strict=True)]
    rates[1] *= 1 - lost / tasks[1].batch
    before, after = map(statistics.mean, padding)
    cells = [folder.name, f"{before:.1%}", f"{after:.1%}", f"{(1 - after) / (1 - before):.2f}"]
    cells += [f"{lost / tasks[1].batch:.2%}", *(f"{rate:.1f}" for rate in rates), f"{rates[1] / rates[0]:.2f}"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", help="a folder of datasets")
    parser.add_argument(
        "names", metavar="NAME", nargs="*", help="datasets to measure (default: all with a train split)"
    )
    parser.add_argument("--pairs", type=int, default=64, help="pairs per batch (default: %(default)s)")
    parser.add_argument("--group", type=int, default=64, help="pairs packed together (default: %(default)s)")
    parser.add_argument("--row", type=int, default=256, help="tokens per packed row, about (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, whose median is printed (default: %(default)s)")
    args = parser.parse_args()
    folders = [
        folder
        for folder in discover.require_datasets(args.folder, "train")
        if folder.name in args.names or not args.names
    ]
    arch = PRESETS[cpu.get_config().model]
    records = (
        record for folder in folders for record in discover.sample_records(open_split(folder, "train"), MAX_RECORDS)
    )
    words = [text for record in records for text in collect_texts(record)]
    preprocessor = Preprocessor(tokenizer.train_tokenizer(words, arch.vocab_size), arch.media)
    print("| dataset | padding | packed | token ratio | lost | pairs/s | packed | ratio |\n" + "|---" * 8 + "|")
    with jax.set_mesh(mesh.make_mesh((1, 1, 1))):
        for folder in folders:
            task = discover.make_task(folder, preprocessor, own_data.MAX_BUDGET, args.pairs, own_data.SYMMETRIC)
            task = dataclasses.replace(task, batch=args.pairs)
            tasks = task, discover.with_packing(task, folder, preprocessor, args.group, args.row)
            print(measure(tasks, folder, preprocessor, args.rounds), flush=True)


if __name__ == "__main__":
    main()
