"""The training loop: a jitted step, an endless mixture, checkpoints, and metrics read one step late.

Restore order: the run's own last whole checkpoint, else the parameters of `init`, else fresh ones from the seed.
"""

import dataclasses
import functools
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from embed import hf
from embed.batch import Candidates, Pairs
from embed.data import fingerprint
from embed.data.mixture import batches, mixture, task_order
from embed.data.preprocess import Preprocessor
from embed.data.sources import Source
from embed.data.tasks import Task
from embed.distributed import hosts, mesh, preemption, storage
from embed.distributed.preemption import Restart
from embed.distributed.watchdog import watchdog
from embed.losses.loss import Loss, Params, init_loss
from embed.model import encoder as encoders
from embed.model.build import EncoderModule, check_encoder
from embed.model import params as partition
from embed.training import checkpoint, optim, resume
from embed.training.flops import CHIPS, model_flops
from embed.training.metrics import MetricsLogger, StepTiming
from embed.training.quarantine import DataError, Quarantine


@flax.struct.dataclass
class TrainState:
    step: jax.Array  # i32[], batches consumed; the only data cursor
    encoder: dict  # parameters
    loss: dict  # the loss's own parameters, {} where it has none
    optimizer: optax.OptState  # of the parameters that train

    @property
    def params(self) -> Params:
        return Params(self.encoder, self.loss)


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How often things happen; nothing here changes the result."""

    save: int = 100
    keep: int = 3
    log: int = 10
    workers: int = 0
    patience: int = 20  # updates in a row that may be skipped as not finite
    stall: float = 1800  # seconds; a step that takes longer ends the process, a task's first one excepted


class Eval(NamedTuple):
    """An evaluation during training."""

    name: str  # values are logged as eval/NAME/METRIC
    every: int  # steps
    score: Callable[[dict, Preprocessor], dict[str, float]]  # the encoder's parameters -> values, the first one chooses


def identity(key: jax.Array, params: dict) -> dict:
    """Return the parameters unchanged."""
    return params


@dataclasses.dataclass(frozen=True)
class Run:
    """An experiment: what is trained, on what, and how. It opens nothing and computes nothing."""

    encoder: EncoderModule
    tasks: Sequence[Task]
    loss: Loss
    optimizer: optax.GradientTransformation
    steps: int
    seed: int
    data: storage.Path  # the folder of the tasks' datasets
    init: storage.Path | None = None  # a checkpoint or a published model's folder to start from; None: the seed
    init_transform: Callable[[jax.Array, dict], dict] = identity  # (key, encoder parameters) -> e.g. with adapters
    trainable: partition.ParamFilter = partition.all_params  # which of the encoder's parameters train, by path
    loop: LoopConfig = LoopConfig()
    max_bad: float = 0.5  # share of a task's last 200 records that may be bad; more stop the run
    folder: storage.Path | None = None  # where checkpoints and logs go; embed.training.main.load_run fills it in
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)  # added to the checkpoints' metadata

    def __post_init__(self):
        if not 0 <= self.max_bad <= 1:
            raise ValueError(f"max_bad is a share, from 0 to 1, not {self.max_bad:g}")


@dataclasses.dataclass(frozen=True)
class Step:
    """One training step, in two compiled parts."""

    differentiate: Callable  # (Params, pairs, candidates, key) -> (gradients, metrics); a program a shape and rule
    update: (
        Callable  # (state, gradients, valid pairs) -> (state, metrics); one program for all tasks; donates the state
    )

    def __call__(
        self, state: TrainState, pairs: Pairs, candidates: Candidates, key: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        grads, metrics = self.differentiate(state.params, pairs, candidates, key)
        state, more = self.update(state, grads, metrics["pairs"])
        return state, {**metrics, **more}


def make_step(
    loss: Loss, optimizer: optax.GradientTransformation, trainable: partition.ParamFilter = partition.all_params
) -> Step:
    """Return the step of a loss.

    Gradients and `state.optimizer` are of Params: the encoder's that `trainable` chooses by path, and all of the
    loss's own.
    """

    @functools.partial(jax.jit, static_argnums=2)
    def differentiate(
        params: Params, pairs: Pairs, candidates: Candidates, key: jax.Array
    ) -> tuple[Params, dict[str, jax.Array]]:
        encoder, frozen = partition.split_params(params.encoder, trainable)

        def loss_of_trained(trained: Params) -> tuple[jax.Array, dict[str, jax.Array]]:
            return loss(Params(partition.merge_params(trained.encoder, frozen), trained.loss), pairs, candidates, key)

        (value, metrics), grads = jax.value_and_grad(loss_of_trained, has_aux=True)(Params(encoder, params.loss))
        sides = [side.segments for side in (pairs.query, pairs.target, pairs.negative)]
        tokens = functools.reduce(jnp.add, (jnp.sum(segments > 0, dtype=jnp.float32) for segments in sides))
        # a float: a batch of millions of pairs has more tokens than an i32 holds
        padding = 1 - tokens / float(sum(segments.size for segments in sides))
        overflowed = jnp.int32(0) if pairs.packed is None else jnp.sum(pairs.packed.overflowed)
        counts = {"quarantined": jnp.sum(~pairs.valid) - overflowed, "overflowed": overflowed}
        counts["truncated"] = jnp.int32(0) if pairs.truncated is None else jnp.sum(pairs.truncated)
        counts["pairs"] = jnp.sum(pairs.valid)
        counts |= {"tokens": tokens, "padding": padding}
        return grads, {"loss": value, **metrics, **counts}

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: TrainState, grads: Params, pairs: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        encoder, frozen = partition.split_params(state.encoder, trainable)
        trained = Params(encoder, state.loss)

        def learn() -> tuple[Params, optax.OptState]:
            updates, optimizer_state = optimizer.update(grads, state.optimizer, trained)
            return optax.apply_updates(trained, updates), optimizer_state

        # Without a valid pair nothing changes; else momentum and weight decay would move the parameters all the same.
        trained, optimizer_state = jax.lax.cond(pairs > 0, learn, lambda: (trained, state.optimizer))
        encoder = partition.merge_params(trained.encoder, frozen)
        consecutive, total = optim.skipped_updates(optimizer_state)
        metrics = {"grad_norm": optax.tree.norm(grads), "skipped": total, "skipped_in_a_row": consecutive}
        return TrainState(state.step + 1, encoder, trained.loss, optimizer_state), metrics

    return Step(differentiate, update)


def starting_params(init: storage.Path, shapes: dict, preprocessor: Preprocessor) -> dict:
    """The encoder's parameters on the layout of `state_shapes` (ShapeDtypeStructs): of a checkpoint, or of a published
    model's folder.

    Raises CheckpointError where a checkpoint expects other inputs than `preprocessor` gives, or holds other parameters, and
    HubError where a folder does.
    """
    if (init / "config.json").exists():
        return hf.load(hf.resolve(init), shapes)
    checkpoint.check_contract(init, preprocessor)
    return checkpoint.load_params(init, shapes)


def init_state(run: Run, encoder: dict) -> TrainState:
    """The state of a run that starts from the encoder's parameters, transformed already."""
    step = jnp.zeros((), jnp.int32, out_sharding=jax.P())  # on every device: all hosts read it
    loss = init_loss(run.loss, jax.random.fold_in(jax.random.key(run.seed), 3))
    trained, _ = partition.split_params(encoder, run.trainable)
    return TrainState(step, encoder, loss, run.optimizer.init(Params(trained, loss)))


def state_shapes(run: Run) -> tuple[dict, TrainState]:
    """The encoder's parameters and the run's first state as ShapeDtypeStructs on the present mesh."""
    base = checkpoint.param_structs(run.encoder)
    key = jax.eval_shape(lambda: jax.random.key(run.seed))
    return base, checkpoint.to_shape_dtype(
        jax.eval_shape(lambda key, params: init_state(run, run.init_transform(key, params)), key, base)
    )


def fit(run: Run, preprocessor: Preprocessor, sources: Sequence[Source]) -> TrainState:
    """Trains to `run.steps` batches and returns the last state, going on from the last checkpoint of the run's folder.

    `sources` are the tasks' records, and `preprocessor` makes inputs of them. Needs a mesh (`jax.set_mesh`). Raises
    CheckpointError where `run.init` expects other inputs, the run's own checkpoint is of another run, or none can be
    written to its folder, ValueError where nothing trains, DataError for a task with too many bad records, Diverged
    after `loop.patience` updates in a row that were not finite, StorageError where nothing more can be written or
    another process writes, Restart where it was asked to stop (SIGTERM) and has saved, and KeyboardInterrupt.
    """
    check_encoder(run.encoder)
    preprocessor.tokenizer.check_rows(run.encoder.arch.vocab_size)
    folder, tasks, schedule, steps = run.folder, run.tasks, run.loop, run.steps
    if folder is None:
        raise ValueError("the run has no folder: make it with embed.training.main.load_run, or set `folder`")
    checkpoint.orbax_path(folder)
    data = mixture(tasks, sources, preprocessor, run.seed, *mesh.local_batch_shards())
    base, target = state_shapes(run)
    meta = describe_run(run, preprocessor, target, sources)
    step_fn, noise = make_step(run.loss, run.optimizer, run.trainable), jax.random.fold_in(jax.random.key(run.seed), 2)
    storage.check_access(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (
        storage.translate_disk_full(folder),
        hosts.lock_folder(folder),
        watchdog(schedule.stall) as beat,
        preemption.watch_signals() as asked,
    ):
        found = resume.restore(folder, vars(target), meta, preprocessor)
        state = starting_state(run, base, preprocessor) if found is None else TrainState(**found)
        first = int(state.step)
        if hosts.is_primary():
            preprocessor.tokenizer.save(folder / "tokenizer.json")
        quarantine = Quarantine(tasks, sources, preprocessor, task_order(tasks, sources, run.seed), run.max_bad)
        late: tuple[int, StepTiming, dict] | None = None
        at_peak: dict[int, float | None] = {}  # seconds of a task's batch, once it is compiled
        with (
            MetricsLogger(folder, tasks, first, steps, schedule.log, schedule.patience) as journal,
            checkpoint.checkpointer(folder, schedule.save, schedule.keep) as saver,
        ):

            def write(step: int, work: StepTiming, metrics: dict[str, jax.Array]) -> None:
                values = journal.write(step, work, metrics)
                try:
                    quarantine.check(step, work.task, int(values["quarantined"]))
                except DataError:
                    journal.publish()
                    raise

            for step, (waited, (number, pairs)) in zip(
                range(first, steps), time_iter(batches(data, first, steps, schedule.workers)), strict=False
            ):
                seen = number in at_peak
                beat(f"{folder}, step {step}", counted=seen)
                batch = mesh.to_global(pairs)
                if not seen:
                    at_peak[number] = peak_seconds(run, state.encoder, batch)
                state, metrics = step_fn(state, batch, tasks[number].candidates, jax.random.fold_in(noise, step))
                if late is not None:
                    write(*late)
                late = (step, StepTiming(number, waited, at_peak[number], counts=seen), metrics)
                stop = asked()
                if stop == signal.SIGINT:
                    raise KeyboardInterrupt
                if (step + 1) % schedule.save == 0 or step + 1 == steps or stop:
                    # Before the checkpoint: a run killed right after it would never write this line again.
                    write(*late)
                    late = None
                    storage.with_retries(journal.publish, folder)
                    checkpoint.save(saver, folder, step + 1, vars(state), meta, wait=step + 1 == steps or bool(stop))
                if stop and step + 1 < steps:
                    raise Restart(f"{folder} was asked to stop and is saved at step {step + 1}")
    hosts.barrier(f"trained {folder}")  # its last checkpoint can be read
    return state


def describe_run(run: Run, preprocessor: Preprocessor, target: TrainState, sources: Sequence[Source]) -> dict[str, Any]:
    """What a run's checkpoints say of it."""
    return checkpoint.metadata_for(
        run.encoder.arch,
        preprocessor,
        tasks=[dataclasses.asdict(task) for task in run.tasks],
        data=fingerprint.describe_datasets(run.tasks, sources),
        trained_parameters=partition.param_shapes(partition.split_params(target.encoder, run.trainable)[0]),
        optimizer=[f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(target.optimizer)],
        seed=run.seed,
        dtype=jnp.dtype(run.encoder.dtype).name,
        init=run.init,
        **run.metadata,
    )


def starting_state(run: Run, base: dict, preprocessor: Preprocessor) -> TrainState:
    """A run's first state, of its seed or of what it starts from; `base` are shapes of the encoder's parameters."""
    key = jax.random.key(run.seed)
    params = (
        encoders.init_params(run.encoder, key) if run.init is None else starting_params(run.init, base, preprocessor)
    )
    params = run.init_transform(jax.random.fold_in(key, 1), params)
    return jax.jit(functools.partial(init_state, run), donate_argnums=0)(params)


def peak_seconds(run: Run, params: dict, batch: Pairs) -> float | None:
    """Seconds that encoding a batch takes forward and backward, nothing made twice, at the peak of the mesh's devices;
    None where that is not known."""
    devices = jax.sharding.get_mesh().devices
    chip = CHIPS.get(devices.flat[0].device_kind)
    return model_flops(run.encoder, params, batch) / devices.size / chip.flops if chip else None


def time_iter(items: Iterator[Any]) -> Iterator[tuple[float, Any]]:
    """(seconds it took to get, item) of each."""
    while True:
        before = time.monotonic()
        try:
            item = next(items)
        except StopIteration:
            return
        yield time.monotonic() - before, item
