"""The state a run starts from, and the metadata of its checkpoints."""

import dataclasses
import functools
import logging
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from embed import hf
from embed.data import fingerprint
from embed.data.preprocess import Preprocessor
from embed.data.sources import Source
from embed.distributed import hosts, storage
from embed.losses.loss import Params, init_loss
from embed.model.encoder import init_params
from embed.model.params import param_shapes, param_structs, split_params, to_shape_dtype
from embed.training.metadata import check_input_spec, metadata_for
from embed.training.resume import restore
from embed.training.run import Run
from embed.training.step import TrainState
from embed.training.weights import load_params

log = logging.getLogger(__name__)


def restore_or_start(
    run: Run,
    folder: storage.Path,
    structs: dict,
    target: TrainState,
    metadata: dict[str, Any],
    preprocessor: Preprocessor,
) -> TrainState:
    """Restore a run's last state from its folder, or make its first one; the folder gets the tokenizer.

    `structs` and `target` are from `state_structs`, `metadata` from `run_metadata`. Raises as `resume.restore` and
    `initial_state` do.
    """
    saved = restore(folder, vars(target), metadata, preprocessor)
    if saved is None:
        state = initial_state(run, structs, preprocessor)
    else:
        state = TrainState(**saved)
        if int(state.step) < run.steps:
            log.info("resuming %s at step %d", folder, int(state.step))
    if hosts.is_primary():
        preprocessor.tokenizer.save(folder / "tokenizer.json")
    return state


def initial_state(run: Run, structs: dict, preprocessor: Preprocessor) -> TrainState:
    """Make a run's first state, from `run.init` or from its seed.

    `structs` are the encoder's parameters as ShapeDtypeStructs. Raises as `read_init` does.
    """
    key = jax.random.key(run.seed)
    params = init_params(run.encoder, key) if run.init is None else read_init(run, structs, preprocessor)
    params = run.init_transform(jax.random.fold_in(key, 1), params)
    return jax.jit(functools.partial(state_from_params, run), donate_argnums=0)(params)


def read_init(run: Run, structs: dict, preprocessor: Preprocessor) -> dict:
    """Read the encoder's parameters of `run.init`, a checkpoint or a published model's folder, sharded like `structs`.

    Raises CheckpointError where a checkpoint expects other inputs than the preprocessor makes or holds other
    parameters, and HubError where a folder does.
    """
    init = run.init
    assert init is not None
    if (init / "config.json").exists():
        return hf.load(hf.resolve(init), run.encoder, seed=run.seed)
    check_input_spec(init, preprocessor)
    return load_params(init, structs)


def state_from_params(run: Run, encoder: dict) -> TrainState:
    """Make the state of a run at step 0 from the encoder's parameters, which `run.init_transform` has changed."""
    step = jnp.zeros((), jnp.int32, out_sharding=jax.P())  # on every device: all hosts read it
    loss = init_loss(run.loss, jax.random.fold_in(jax.random.key(run.seed), 3))
    trained, _ = split_params(encoder, run.trainable)
    return TrainState(step, encoder, loss, run.optimizer.init(Params(trained, loss)))


def state_structs(run: Run) -> tuple[dict, TrainState]:
    """Return the encoder's parameters and the run's first state as ShapeDtypeStructs on the current mesh."""
    params = param_structs(run.encoder)
    key = jax.eval_shape(lambda: jax.random.key(run.seed))
    state = jax.eval_shape(lambda key, params: state_from_params(run, run.init_transform(key, params)), key, params)
    return params, to_shape_dtype(state)


def run_metadata(run: Run, preprocessor: Preprocessor, state: TrainState, sources: Sequence[Source]) -> dict[str, Any]:
    """Return the metadata of a run's checkpoints; `state` may be ShapeDtypeStructs."""
    return metadata_for(
        run.encoder.arch,
        preprocessor,
        tasks=[dataclasses.asdict(task) for task in run.tasks],
        data=fingerprint.describe_datasets(run.tasks, sources),
        trained_parameters=param_shapes(split_params(state.encoder, run.trainable)[0]),
        loss_parameters=param_shapes(state.loss),
        optimizer=[f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(state.optimizer)],
        seed=run.seed,
        dtype=jnp.dtype(run.encoder.dtype).name,
        init=run.init,
        **run.metadata,
    )
