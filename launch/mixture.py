"""Show what an experiment's mixture means before it runs: steps and epochs per task, what its batches hold and lose.

  python -m launch.mixture EXPERIMENT [--config=configs/cpu.py] [--batches=4]

Prints one row per task, measured over some of its batches.
  records, pairs    of the dataset; of a batch
  steps, epochs     of the whole run, on average
  tokens, padding   tokens of a batch, and the share of positions without one
  images, clips     the shares of image and audio slots that are empty
  truncated         the share of pairs with an input longer than its budget
  lost              the share of pairs that cannot be read, or did not fit into a packed row
  program           tasks with the same number share one compiled program: same shapes, candidates and batch
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
from embed.training.command_line import define_config, run_with_flags
from embed.training.config_check import ConfigError
from embed.training.main import list_experiments, load_experiment
from embed.training.prepare import open_sources, prepare_preprocessor

BATCHES = flags.DEFINE_integer("batches", 4, "batches of each task to read", lower_bound=1)
CONFIG = define_config("configs/cpu.py")
HEAD = ("task", "records", "pairs", "steps", "epochs", "tokens", "padding", "images", "clips", "truncated", "lost")


def format_share(share: float) -> str:
    return f"{100 * share:.0f} %"


def format_empty_share(is_filled: np.ndarray) -> str:
    """Return the share of media slots, bool[n], that are empty; nothing where there are no slots."""
    return format_share(1 - is_filled.mean()) if is_filled.size else ""


def format_task(run: loop.Run, task: Task, source: Source, preprocessor: Preprocessor, batches: int) -> list[str]:
    """Return the cells of HEAD for a task, measured over its first `batches` batches."""
    steps = run.steps * task.weight / sum(other.weight for other in run.tasks)
    data = mixture([task], [source], preprocessor, run.seed)
    read = [data[step][1] for step in range(batches)]
    sides: list[Inputs] = [side for pairs in read for side in (pairs.query, pairs.target, pairs.negative)]
    tokens = sum(int((side.segments > 0).sum()) for side in sides)
    positions = sum(side.segments.size for side in sides)
    images = np.concatenate([(side.patch_xy >= 0).any(axis=(2, 3)).reshape(-1) for side in sides])
    clips = np.concatenate([side.audio_mask.any(axis=2).reshape(-1) for side in sides])
    truncated = sum(int(pairs.truncated.sum()) for pairs in read if pairs.truncated is not None)
    lost = sum(int((~pairs.valid).sum()) for pairs in read)
    return [
        task.name,
        f"{len(source):,}",
        f"{task.batch:,}",
        f"{steps:,.0f}",
        f"{steps * task.batch / len(source):.1f}",
        f"{tokens / batches:,.0f}",
        format_share(1 - tokens / positions),
        format_empty_share(images),
        format_empty_share(clips),
        *(f"{100 * count / (batches * task.batch):.1f} %" for count in (truncated, lost)),
    ]


def format_row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        usage = "python -m launch.mixture EXPERIMENT [--config=...]"
        raise ConfigError(f"usage: {usage}; experiments: {', '.join(list_experiments())}")
    config = CONFIG.value
    run = load_experiment(argv[1]).plan(config)
    data = storage.path(config.data)
    preprocessor = prepare_preprocessor(run.encoder.arch, data, config.pairs)
    programs: dict[tuple, int] = {}
    print(format_row([*HEAD, "program"]) + "\n" + "|---" * (len(HEAD) + 1) + "|")
    with jax.set_mesh(make_mesh((1, 1, 1))):
        for task, source in zip(run.tasks, open_sources(run.tasks, data), strict=True):
            key = (batch_structs(task, preprocessor.media), task.candidates)
            program = programs.setdefault(key, len(programs) + 1)
            cells = format_task(run, task, source, preprocessor, BATCHES.value)
            print(format_row([*cells, str(program)]), flush=True)


if __name__ == "__main__":
    run_with_flags(main)
