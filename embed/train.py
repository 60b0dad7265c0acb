"""The training loop: a jitted step, an endless mixture, checkpoints, and metrics read one step late.

Restore order: the run's own last checkpoint, else the parameters of `init`, else fresh ones from the seed.
"""

import contextlib
import dataclasses
import functools
import logging
import pathlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from embed import checkpoint, hf, hosts, mesh, optim, partition
from embed.data.layout import Layout
from embed.data.pipeline import batches, mixture
from embed.data.records import Source
from embed.data.tasks import Task
from embed.inputs import Pairs
from embed.journal import Journal
from embed.loss.contrast import Candidates
from embed.model import encoder as encoders
from embed.watchdog import watchdog

log = logging.getLogger(__name__)
Loss = Callable[[dict, Pairs, Candidates], tuple[jax.Array, dict[str, jax.Array]]]


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
    stall: float = 1800  # seconds; a step that takes longer ends the process, a task's first one excepted


def unchanged(key: jax.Array, params: dict) -> dict:
    """Adds nothing to the parameters a run starts from."""
    return params


@dataclasses.dataclass(frozen=True)
class Run:
    """What an experiment says: what is trained, on what, and how. It opens nothing and computes nothing."""

    folder: pathlib.Path
    encoder: encoders.Encoder
    tasks: Sequence[Task]
    loss: Loss
    optimizer: optax.GradientTransformation
    steps: int
    seed: int
    init: pathlib.Path | None = None  # a checkpoint or a published model's folder to start from; None: the seed
    adapt: Callable[[jax.Array, dict], dict] = unchanged  # (key, parameters) -> with adapters, say, added to them
    trains: partition.Chooses = partition.everything  # which parameters, by path; the others stay as they are
    schedule: Schedule = Schedule()
    about: dict[str, Any] = dataclasses.field(default_factory=dict)  # for the checkpoint's metadata


@dataclasses.dataclass(frozen=True)
class Step:
    """One training step, in two compiled parts."""

    differentiate: Callable  # (params, pairs, candidates) -> (gradients, metrics); one program a batch shape and rule
    update: Callable  # (state, gradients) -> (state, metrics); one program for all tasks; the state is donated

    def __call__(
        self, state: TrainState, pairs: Pairs, candidates: Candidates
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        grads, metrics = self.differentiate(state.params, pairs, candidates)
        state, more = self.update(state, grads)
        return state, {**metrics, **more}


def make_step(
    loss: Loss, optimizer: optax.GradientTransformation, trains: partition.Chooses = partition.everything
) -> Step:
    """The step of a loss; gradients and `state.opt` are of the parameters that `trains` chooses by their paths."""

    @functools.partial(jax.jit, static_argnums=2)
    def differentiate(params: dict, pairs: Pairs, candidates: Candidates) -> tuple[dict, dict[str, jax.Array]]:
        trained, frozen = partition.split(params, trains)

        def of_trained(trained: dict) -> tuple[jax.Array, dict[str, jax.Array]]:
            return loss(partition.merge(trained, frozen), pairs, candidates)

        (value, metrics), grads = jax.value_and_grad(of_trained, has_aux=True)(trained)
        return grads, {"loss": value, **metrics, "quarantined": jnp.sum(~pairs.valid)}

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: TrainState, grads: dict) -> tuple[TrainState, dict[str, jax.Array]]:
        trained, frozen = partition.split(state.params, trains)
        updates, opt = optimizer.update(grads, state.opt, trained)
        params = partition.merge(optax.apply_updates(trained, updates), frozen)
        consecutive, total = optim.skipped(opt)
        metrics = {"grad_norm": optax.tree.norm(grads), "skipped": total, "skipped_in_a_row": consecutive}
        return TrainState(state.step + 1, params, opt), metrics

    return Step(differentiate, update)


def starting_params(init: pathlib.Path, shapes: dict, layout: Layout) -> dict:
    """The encoder's parameters on the layout of `shapes` (ShapeDtypeStructs): of a checkpoint, or of a published
    model's folder.

    Raises CheckpointError where a checkpoint expects other inputs than `layout` gives, or holds other parameters, and
    HubError where a folder does.
    """
    if (init / "config.json").exists():
        return hf.load(init, shapes)
    checkpoint.check(init, layout)
    return checkpoint.load_params(init, shapes)


def begin(run: Run, params: dict) -> TrainState:
    """The state of a run that starts from `params`, adapted already."""
    nothing = jnp.zeros((), jnp.int32, out_sharding=jax.P())  # on every device: all hosts read it
    return TrainState(nothing, params, run.optimizer.init(partition.split(params, run.trains)[0]))


def shapes(run: Run) -> tuple[dict, TrainState]:
    """The encoder's parameters and the run's first state as ShapeDtypeStructs on the present mesh."""
    key = jax.eval_shape(lambda: jax.random.key(run.seed))
    base = checkpoint.concrete(jax.eval_shape(lambda key: encoders.init(run.encoder, key), key))
    return base, checkpoint.concrete(jax.eval_shape(lambda key, params: begin(run, run.adapt(key, params)), key, base))


def fit(run: Run, layout: Layout, sources: Sequence[Source]) -> TrainState:
    """Trains to `run.steps` batches and returns the last state, going on from the last checkpoint of the run's folder.

    `sources` are the tasks' records, and `layout` makes inputs of them. Needs a mesh (`jax.set_mesh`). Raises
    CheckpointError where `run.init` or the run's own checkpoint expects other inputs, belongs to other tasks or trains
    other parameters, ValueError where nothing trains, and Diverged after `schedule.patience` updates in a row that
    were not finite.
    """
    folder, tasks, schedule, steps = run.folder, run.tasks, run.schedule, run.steps
    data = mixture(tasks, sources, layout, run.seed, *mesh.lines())
    key = jax.random.key(run.seed)
    base, target = shapes(run)
    meta = checkpoint.describe(
        run.encoder.arch,
        layout,
        tasks=[dataclasses.asdict(task) for task in tasks],
        trained_parameters=partition.shapes(partition.split(target.params, run.trains)[0]),
        seed=run.seed,
        init=run.init,
        **run.about,
    )
    step_fn = make_step(run.loss, run.optimizer, run.trains)
    folder.mkdir(parents=True, exist_ok=True)
    with (
        watchdog(schedule.stall) as beat,
        checkpoint.checkpointer(folder, schedule.save, schedule.keep) as saver,
        _interrupts() as interrupted,
    ):
        if checkpoint.steps(folder):
            state = _restore(folder, saver, target, meta, layout)
        else:
            params = encoders.init(run.encoder, key) if run.init is None else starting_params(run.init, base, layout)
            params = run.adapt(jax.random.fold_in(key, 1), params)
            state = jax.jit(functools.partial(begin, run), donate_argnums=0)(params)
        start = int(state.step)
        if hosts.leads():
            layout.tokenizer.save(folder / "tokenizer.json")
        journal = Journal(folder, tasks, start, steps)
        late: tuple[int, int, dict] | None = None
        compiled: set[int] = set()  # tasks
        for step, (number, pairs) in zip(
            range(start, steps), batches(data, start, steps, schedule.workers), strict=False
        ):
            beat(f"{folder}, step {step}", counted=number in compiled)
            compiled.add(number)
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
    hosts.together(f"trained {folder}")  # its last checkpoint can be read
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


def _restore(folder, saver, target: TrainState, meta, layout) -> TrainState:
    """The last checkpoint of `folder` on the layout of `target`. Raises CheckpointError where it is of another run."""
    checkpoint.check(folder, layout)
    saved = checkpoint.metadata(folder)
    changed = [k for k in ("architecture", "tasks", "seed", "trained_parameters") if saved.get(k) != meta.get(k)]
    if changed:
        raise checkpoint.CheckpointError(
            f"{folder} holds a run with other {', '.join(changed)}; give this one another workdir, or delete that one"
        )
    last = checkpoint.steps(folder)[-1]
    loaded = saver.load(last, {"step": target.step, "params": target.params, "opt": target.opt})
    log.info("resuming %s at step %d", folder, last)
    return TrainState(loaded["step"], loaded["params"], loaded["opt"])
