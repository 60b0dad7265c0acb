"""What an experiment's mixture means before it runs: steps and epochs of every task, what its batches hold and lose.

  python -m launch.mixture EXPERIMENT [--config=configs/NAME.py] [--batches=4]

`padding` is the share of tokens that are none, `images` and `clips` the shares of their places that are empty, `cut`
the share of pairs of which an input is longer than its budget, and `lost` of those that cannot be read or find no room,
measured over some batches of each task. Tasks with the same shapes, rules of candidates and batch share their compiled
program.
"""

import jax
import numpy as np
from absl import flags

from embed.batch import Inputs
from embed.data.mixture import mixture
from embed.data.preprocess import Preprocessor
from embed.data.sources import Source
from embed.data.tasks import Task, batch_structs
from embed.distributed import storage
from embed.distributed.mesh import make_mesh
from embed.training import loop
from embed.training.config_check import ConfigError
from embed.training.main import define_config, load_experiment, start
from embed.training.prepare import open_sources, prepare_preprocessor

BATCHES = flags.DEFINE_integer("batches", 4, "batches of each task that are read", lower_bound=1)
CONFIG = define_config("configs/cpu.py")
HEAD = ["task", "records", "pairs", "steps", "epochs", "tokens", "padding", "images", "clips", "cut", "lost", "program"]


def empty_share(there: np.ndarray) -> str:
    """The share of places for media, bool[n], that hold nothing; no words where there are no places."""
    return f"{100 * (1 - there.mean()):.0f} %" if there.size else ""


def line(run: loop.Run, task: Task, source: Source, preprocessor: Preprocessor, batches: int) -> list[str]:
    """The cells of a task, but for its program."""
    steps = run.steps * task.weight / sum(one.weight for one in run.tasks)
    data = mixture([task], [source], preprocessor, run.seed)
    found = [data[step][1] for step in range(batches)]
    sides: list[Inputs] = [side for pairs in found for side in (pairs.query, pairs.target, pairs.negative)]
    tokens = sum(int((side.segments > 0).sum()) for side in sides)
    images = np.concatenate([(side.patch_xy >= 0).any(axis=(2, 3)).reshape(-1) for side in sides])
    clips = np.concatenate([side.audio_mask.any(axis=2).reshape(-1) for side in sides])
    cut = sum(int(pairs.truncated.sum()) for pairs in found if pairs.truncated is not None)
    lost = sum(int((~pairs.valid).sum()) for pairs in found)
    return [
        task.name,
        f"{len(source):,}",
        f"{task.batch:,}",
        f"{steps:,.0f}",
        f"{steps * task.batch / len(source):.1f}",
        f"{tokens / batches:,.0f}",
        f"{100 * (1 - tokens / sum(side.segments.size for side in sides)):.0f} %",
        empty_share(images),
        empty_share(clips),
        *(f"{100 * count / (batches * task.batch):.1f} %" for count in (cut, lost)),
    ]


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise ConfigError("name one experiment: python -m launch.mixture EXPERIMENT [--config=...]")
    config = CONFIG.value
    run = load_experiment(argv[1]).plan(config)
    data = storage.path(config.data)
    preprocessor = prepare_preprocessor(run.encoder.arch, data, config.pairs)
    programs: dict[tuple, int] = {}
    print("| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|")
    with jax.set_mesh(make_mesh((1, 1, 1))):
        for task, source in zip(run.tasks, open_sources(run.tasks, data), strict=True):
            number = programs.setdefault((batch_structs(task, preprocessor.media), task.candidates), len(programs) + 1)
            print(
                "| " + " | ".join([*line(run, task, source, preprocessor, BATCHES.value), str(number)]) + " |",
                flush=True,
            )


if __name__ == "__main__":
    start(main)
