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

from embed import checkpoint, hf, mesh, optim, partition
from embed.data.layout import Layout
from embed.data.pipeline import batches, mixture
from embed.data.records import Source
from embed.data.tasks import Task
from embed.inputs import Pairs
from embed.journal import Journal
from embed.loss.contrast import Candidates
from embed.model import encoder as encoders

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


def make_step(
    loss: Loss, optimizer: optax.GradientTransformation, trains: partition.Chooses = partition.everything
) -> Callable:
    """(state, pairs, candidates) -> (state, metrics); the state is donated.

    Gradients are compiled once a batch shape and mask rule, the optimizer once for all tasks. Both are of the
    parameters that `trains` chooses by their paths, and `state.opt` is too; the loss takes all.
    """

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

    def step(state: TrainState, pairs: Pairs, candidates: Candidates) -> tuple[TrainState, dict[str, jax.Array]]:
        grads, metrics = differentiate(state.params, pairs, candidates)
        state, more = update(state, grads)
        return state, {**metrics, **more}

    return step


def unchanged(key: jax.Array, params: dict) -> dict:
    """Adds nothing to the parameters a run starts from."""
    return params


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
    adapt: Callable[[jax.Array, dict], dict] = unchanged,
    trains: partition.Chooses = partition.everything,
    schedule: Schedule = Schedule(),
    about: dict[str, Any] | None = None,
) -> TrainState:
    """Trains to `steps` batches and returns the last state, going on from the last checkpoint in `run` if there is one.

    `adapt(key, params)` adds to the parameters that a run starts from (adapters, say); of the result, what `trains`
    chooses by path is trained, and the rest stays as it is.

    Needs a mesh (`jax.set_mesh`). Raises CheckpointError where `init` or the run's own checkpoint expects other
    inputs, belongs to other tasks or trains other parameters, ValueError where nothing trains, and Diverged after
    `schedule.patience` updates in a row that were not finite.
    """
    data = mixture(tasks, sources, layout, seed, jax.process_index(), jax.process_count())
    key = jax.random.key(seed)
    adapters_key = jax.random.fold_in(key, 1)

    def begin(params: dict) -> TrainState:
        return TrainState(jnp.int32(0), params, optimizer.init(partition.split(params, trains)[0]))

    base = checkpoint.concrete(jax.eval_shape(lambda key: encoders.init(encoder, key), key))
    target = checkpoint.concrete(jax.eval_shape(lambda key, params: begin(adapt(key, params)), adapters_key, base))
    meta = checkpoint.describe(
        encoder.arch,
        layout,
        tasks=[dataclasses.asdict(task) for task in tasks],
        trained_parameters=partition.shapes(partition.split(target.params, trains)[0]),
        seed=seed,
        init=init,
        **(about or {}),
    )
    step_fn = make_step(loss, optimizer, trains)
    run.mkdir(parents=True, exist_ok=True)
    with checkpoint.checkpointer(run, schedule.save, schedule.keep) as saver, _interrupts() as interrupted:
        if checkpoint.steps(run):
            state = _restore(run, saver, target, meta, layout)
        else:
            params = encoders.init(encoder, key) if init is None else starting_params(init, base, layout)
            state = jax.jit(begin, donate_argnums=0)(adapt(adapters_key, params))
        start = int(state.step)
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


def _restore(run, saver, target: TrainState, meta, layout) -> TrainState:
    """The last checkpoint of `run` on the layout of `target`. Raises CheckpointError where it is of another run."""
    checkpoint.check(run, layout)
    saved = checkpoint.metadata(run)
    changed = [k for k in ("architecture", "tasks", "seed", "trained_parameters") if saved.get(k) != meta.get(k)]
    if changed:
        raise checkpoint.CheckpointError(
            f"{run} holds a run with other {', '.join(changed)}; give this one another workdir, or delete that one"
        )
    last = checkpoint.steps(run)[-1]
    loaded = saver.load(last, {"step": target.step, "params": target.params, "opt": target.opt})
    log.info("resuming %s at step %d", run, last)
    return TrainState(loaded["step"], loaded["params"], loaded["opt"])
