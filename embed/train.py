"""The training loop: a jitted step, an endless mixture, checkpoints, and metrics read one step late.

Restore order: the run's own last checkpoint, else the parameters of `init`, else fresh ones from the seed.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from tensorboardX import SummaryWriter
from tqdm import tqdm

from embed import checkpoint, mesh, optim
from embed.data.layout import Layout
from embed.data.pipeline import batches, mixture
from embed.data.records import Source
from embed.data.tasks import Task
from embed.inputs import Pairs
from embed.loss.contrast import Candidates
from embed.model import encoder as encoders

log = logging.getLogger(__name__)
Loss = Callable[[dict, Pairs, Candidates], tuple[jax.Array, dict[str, jax.Array]]]


class Diverged(RuntimeError):
    """Too many updates in a row were not finite."""


@flax.struct.dataclass
class TrainState:
    step: jax.Array  # i32[], batches consumed; the only data cursor
    params: dict
    opt: optax.OptState


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How often things happen; nothing here changes the result."""

    save: int = 100
    keep: int = 3
    log: int = 10
    workers: int = 0
    patience: int = 20  # updates in a row that may be skipped as not finite


def make_step(loss: Loss, optimizer: optax.GradientTransformation) -> Callable:
    """(state, pairs, candidates) -> (state, metrics); the state is donated.

    Gradients are compiled once a batch shape and mask rule, the optimizer once for all tasks.
    """

    @functools.partial(jax.jit, static_argnums=2)
    def differentiate(params: dict, pairs: Pairs, candidates: Candidates) -> tuple[dict, dict[str, jax.Array]]:
        (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(params, pairs, candidates)
        return grads, {"loss": value, **metrics, "quarantined": jnp.sum(~pairs.valid)}

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: TrainState, grads: dict) -> tuple[TrainState, dict[str, jax.Array]]:
        updates, opt = optimizer.update(grads, state.opt, state.params)
        consecutive, total = optim.skipped(opt)
        metrics = {"grad_norm": optax.tree.norm(grads), "skipped": total, "skipped_in_a_row": consecutive}
        return TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt), metrics

    def step(state: TrainState, pairs: Pairs, candidates: Candidates) -> tuple[TrainState, dict[str, jax.Array]]:
        grads, metrics = differentiate(state.params, pairs, candidates)
        state, more = update(state, grads)
        return state, {**metrics, **more}

    return step


def fit(
    run: pathlib.Path,
    encoder: encoders.Encoder,
    layout: Layout,
    tasks: Sequence[Task],
    sources: Sequence[Source],
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    steps: int,
    seed: int,
    init: pathlib.Path | None = None,
    schedule: Schedule = Schedule(),
    about: dict[str, Any] | None = None,
) -> TrainState:
    """Trains to `steps` batches and returns the last state, going on from the last checkpoint in `run` if there is one.

    Needs a mesh (`jax.set_mesh`). Raises CheckpointError where `init` or the run's own checkpoint expects other
    inputs or belongs to other tasks, and Diverged after `schedule.patience` updates in a row that were not finite.
    """
    run.mkdir(parents=True, exist_ok=True)
    meta = checkpoint.describe(
        encoder.arch, layout, tasks=[dataclasses.asdict(task) for task in tasks], seed=seed, init=init, **(about or {})
    )
    data = mixture(tasks, sources, layout, seed, jax.process_index(), jax.process_count())
    step_fn = make_step(loss, optimizer)
    with checkpoint.checkpointer(run, schedule.save, schedule.keep) as saver, _interrupts() as interrupted:
        state, start = _restore_or_init(run, saver, encoder, optimizer, data[0][1], seed, init, meta, layout)
        layout.tokenizer.save(run / "tokenizer.json")
        journal = Journal(run, tasks, start, steps)
        late: tuple[int, int, dict] | None = None
        for step, (number, pairs) in zip(
            range(start, steps), batches(data, start, steps, schedule.workers), strict=False
        ):
            state, metrics = step_fn(state, mesh.to_global(pairs), tasks[number].candidates)
            if late is not None:
                journal.write(*late, every=schedule.log, patience=schedule.patience)
            late = (step, number, metrics)
            if (step + 1) % schedule.save == 0 or step + 1 == steps:
                # Before the checkpoint: a run killed right after it would never write this line again.
                journal.write(*late, every=schedule.log, patience=schedule.patience)
                late = None
                saver.save_async(
                    step + 1,
                    {"step": state.step, "params": state.params, "opt": state.opt},
                    custom_metadata=meta,
                    force=True,
                )
            if interrupted():
                raise KeyboardInterrupt
        journal.close()
    return state


@contextlib.contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed, to stop between steps: in a save it would break orbax's threads. A second one
    raises."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return

    def press(*_: Any) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def _restore_or_init(run, saver, encoder, optimizer, sample, seed, init, meta, layout) -> tuple[TrainState, int]:
    def fresh(key: jax.Array) -> TrainState:
        params = encoders.init(encoder, key, query)
        return TrainState(jnp.int32(0), params, optimizer.init(params))

    query = mesh.to_global(sample.query)
    key = jax.random.key(seed)
    found = checkpoint.steps(run)
    if found:
        checkpoint.check(run, layout)
        saved = checkpoint.metadata(run)
        changed = [k for k in ("architecture", "tasks", "seed") if saved.get(k) != meta.get(k)]
        if changed:
            raise checkpoint.CheckpointError(
                f"{run} holds a run with other {', '.join(changed)}; give this one another workdir, or delete that one"
            )
        target = checkpoint.concrete(jax.eval_shape(fresh, key))
        loaded = saver.load(found[-1], {"step": target.step, "params": target.params, "opt": target.opt})
        log.info("resuming %s at step %d", run, found[-1])
        return TrainState(loaded["step"], loaded["params"], loaded["opt"]), found[-1]
    state = jax.jit(fresh)(key)
    if init is not None:
        checkpoint.check(init, layout)
        state = state.replace(params=checkpoint.load_params(init, checkpoint.concrete(state.params)))
    return state, 0


class Journal:
    """Metrics to metrics.jsonl, TensorBoard, and a progress bar (on a terminal) or plain lines (in a log)."""

    def __init__(self, run: pathlib.Path, tasks: Sequence[Task], start: int, steps: int):
        self.tasks, self.path = tasks, run / "metrics.jsonl"
        # Lines after the last checkpoint belong to steps that are about to run again.
        rows = self.path.read_text().splitlines() if self.path.exists() else []
        kept = [line for line in rows if line.endswith("}") and json.loads(line)["step"] < start]
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(line + "\n" for line in kept))
        partial.replace(self.path)
        self.file = self.path.open("a")
        self.board = SummaryWriter(str(run / "tensorboard"), purge_step=start)
        self.bar = tqdm(total=steps, initial=start, desc=run.name, unit="step", disable=not sys.stderr.isatty())
        self.steps, self.first, self.begun = steps, start, time.monotonic()
        self.last = self.begun
        self.quarantined: dict[str, int] = {}

    def write(self, step: int, number: int, metrics: dict[str, jax.Array], every: int, patience: int) -> None:
        """One step's metrics; blocks until that step is done. Raises Diverged."""
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        task = self.tasks[number].name
        now = time.monotonic()
        row = {"step": step, "task": task, **values, "seconds": now - self.last}
        self.last = now
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()
        for name, value in values.items():
            self.board.add_scalar(f"{task}/{name}", value, step)
        if values["quarantined"]:
            self.quarantined[task] = self.quarantined.get(task, 0) + int(values["quarantined"])
            log.warning("quarantined so far, by source: %s", self.quarantined)
        self.bar.update()
        self.bar.set_postfix_str(f"{task} loss {values['loss']:.3f}", refresh=False)
        if self.bar.disable and ((step + 1) % every == 0 or step + 1 == self.steps):
            rate = (step + 1 - self.first) / (now - self.begun)
            left = (self.steps - step - 1) / rate
            line = "step %d/%d %s loss %.3f accuracy %.3f, %.2f steps/s, %.0f s left"
            log.info(line, step + 1, self.steps, task, values["loss"], values["accuracy"], rate, left)
        if values["skipped_in_a_row"] >= patience:
            raise Diverged(
                f"{patience} updates in a row were not finite, at step {step} of task {task}; lower the rate"
            )

    def close(self) -> None:
        self.file.close()
        self.board.close()
        self.bar.close()
