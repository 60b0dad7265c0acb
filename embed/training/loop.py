"""The training loop: build the run's parts, restore or start its state, and loop over an endless mixture."""

import logging
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import jax

from embed.batch import Pairs
from embed.data.mixture import iterate_batches, mixture, task_order
from embed.data.preprocess import Preprocessor
from embed.data.sources import Source
from embed.distributed import hosts, mesh, storage
from embed.distributed.preemption import Restart, watch_signals
from embed.distributed.watchdog import watchdog
from embed.model.build import check_encoder
from embed.training import checkpoint
from embed.training.evals import Evaluator
from embed.training.flops import CHIPS, model_flops
from embed.training.metrics import MetricsLogger, StepTiming
from embed.training.quarantine import DataError, Quarantine
from embed.training.run import Eval, LoopConfig, Run
from embed.training.start import restore_or_start, run_metadata, state_structs
from embed.training.step import TrainState, make_step

__all__ = ["Eval", "LoopConfig", "Run", "TrainState", "fit"]

log = logging.getLogger(__name__)


def fit(run: Run, preprocessor: Preprocessor, sources: Sequence[Source]) -> TrainState:
    """Train to `run.steps` batches and return the last state, resuming from the last checkpoint of the run's folder.

    `sources` are the tasks' records. Needs a mesh (`jax.set_mesh`). Raises CheckpointError where `run.init` expects
    other inputs, the run's own checkpoint is of another run, or none can be written to its folder; ValueError where
    nothing trains; DataError for a task with too many bad records; Diverged after `run.loop.patience` updates in a row
    that are not finite; StorageError where nothing can be written or another process writes; Restart after a SIGTERM
    and KeyboardInterrupt after a Ctrl-C, both with the state saved.
    """
    check_encoder(run.encoder)
    preprocessor.tokenizer.check_rows(run.encoder.arch.vocab_size)
    folder = _folder(run)
    data = mixture(run.tasks, sources, preprocessor, run.seed, *mesh.local_batch_shards())
    structs, target = state_structs(run)
    metadata = run_metadata(run, preprocessor, target, sources)
    storage.check_access(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with storage.translate_disk_full(folder), hosts.lock_folder(folder):
        state = restore_or_start(run, folder, structs, target, metadata, preprocessor)
        if int(state.step) >= run.steps:
            log.info("%s is finished at step %d", folder, int(state.step))
            return state
        quarantine = Quarantine(run.tasks, sources, preprocessor, task_order(run.tasks, sources, run.seed), run.max_bad)
        evaluator = Evaluator(run, folder, int(state.step), preprocessor, metadata)
        state = _train(run, folder, state, data, metadata, quarantine, evaluator)
    hosts.barrier(f"trained {folder}")  # its last checkpoint can be read
    return state


def _folder(run: Run) -> storage.Path:
    """Return the run's folder. Raises ValueError where it has none, CheckpointError where orbax cannot use its path."""
    if run.folder is None:
        raise ValueError("the run has no folder: make it with embed.training.main.load_run, or set `folder`")
    checkpoint.orbax_path(run.folder)
    return run.folder


def _train(
    run: Run,
    folder: storage.Path,
    state: TrainState,
    data: grain.MapDataset,
    metadata: dict[str, Any],
    quarantine: Quarantine,
    evaluator: Evaluator,
) -> TrainState:
    """Loop from `state` to the run's last step: step, log, evaluate, save."""
    first, config = int(state.step), run.loop
    take_step = make_step(run.loss, run.optimizer, run.trainable)
    dropout_key = jax.random.fold_in(jax.random.key(run.seed), 2)
    peak: dict[int, float | None] = {}  # peak_seconds of each task whose program is compiled
    with (
        watchdog(config.stall) as heartbeat,
        watch_signals() as stop_requested,
        MetricsLogger(folder, run.tasks, first, run.steps, config.log, config.patience) as logger,
        checkpoint.checkpointer(folder, config.save, config.keep) as saver,
    ):
        pending = PendingMetrics(logger, quarantine)

        def evaluate(step: int) -> None:
            heartbeat(f"{folder}, evaluation at step {step}", is_timed=evaluator.has_run)
            storage.with_retries(saver.wait, folder)  # the best encoder is written by a checkpointer of its own
            logger.write_scores(step, evaluator.score(step, state.encoder))
            heartbeat(f"{folder}, step {step}")

        if evaluator.is_due(first):
            evaluate(first)  # the run was stopped before it
        for step, (waited, (number, pairs)) in zip(
            range(first, run.steps), time_iter(iterate_batches(data, first, run.steps, config.workers)), strict=False
        ):
            task, is_compiled = run.tasks[number], number in peak
            heartbeat(f"{folder}, step {step}", is_timed=is_compiled)
            batch = mesh.to_global(pairs)
            if not is_compiled:
                logger.progress.compiling(task.name)
                peak[number] = peak_seconds(run, state.encoder, batch)
            state, metrics = take_step(state, batch, task.candidates, jax.random.fold_in(dropout_key, step))
            pending.push(step, StepTiming(number, waited, peak[number], is_compiled), metrics)

            done, is_last, stop = step + 1, step + 1 == run.steps, stop_requested()
            if evaluator.is_due(done) and (is_last or not stop):
                pending.flush()
                evaluate(done)
            if done % config.save == 0 or is_last or stop:
                # Before the checkpoint: a run killed right after it would never write this row again.
                pending.flush()
                storage.with_retries(logger.publish, folder)
                checkpoint.save(saver, folder, done, vars(state), metadata, wait=is_last or bool(stop))
            if stop and not is_last:
                raise _stopped(stop, folder, done)
    return state


def _stopped(stop: signal.Signals, folder: storage.Path, step: int) -> BaseException:
    if stop == signal.SIGINT:
        log.info("%s was interrupted and is saved at step %d", folder, step)
        return KeyboardInterrupt()
    return Restart(f"{folder} was asked to stop and is saved at step {step}")


class PendingMetrics:
    """Metrics of the last step, which are read one step late so that the host never waits for the device."""

    def __init__(self, logger: MetricsLogger, quarantine: Quarantine):
        self.logger, self.quarantine = logger, quarantine
        self.step: tuple[int, StepTiming, dict[str, jax.Array]] | None = None

    def push(self, step: int, timing: StepTiming, metrics: dict[str, jax.Array]) -> None:
        """Write the step before, and keep this one."""
        self.flush()
        self.step = step, timing, metrics

    def flush(self) -> None:
        """Write the step that is kept, if any. Raises Diverged and DataError."""
        if self.step is None:
            return
        step, timing, metrics = self.step
        self.step = None
        values = self.logger.write(step, timing, metrics)
        try:
            self.quarantine.check(step, timing.task, int(values["quarantined"]))
        except DataError:
            self.logger.publish()
            raise


def peak_seconds(run: Run, params: dict, batch: Pairs) -> float | None:
    """Return the seconds that a batch's encoding, forward and backward without recomputation, takes at the peak of the
    mesh's devices; None where the peak is not known."""
    devices = jax.sharding.get_mesh().devices
    chip = CHIPS.get(devices.flat[0].device_kind)
    return model_flops(run.encoder, params, batch) / devices.size / chip.flops if chip else None


def time_iter(items: Iterator[Any]) -> Iterator[tuple[float, Any]]:
    """Yield (seconds it took to get, item) of each item."""
    while True:
        before = time.monotonic()
        try:
            item = next(items)
        except StopIteration:
            return
        yield time.monotonic() - before, item
