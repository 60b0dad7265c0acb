"""One training step: gradients of a task's batch, then one update."""

import dataclasses
import functools
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import optax

from embed.batch import Candidates, Pairs
from embed.losses.loss import Loss, Params
from embed.model.params import ParamFilter, all_params, merge_params, split_params
from embed.training import optim


@flax.struct.dataclass
class TrainState:
    """What a checkpoint holds."""

    step: jax.Array  # i32[], batches consumed; the only data cursor
    encoder: dict  # parameters
    loss: dict  # the loss's own parameters, {} where it has none
    optimizer: optax.OptState  # of the parameters that train

    @property
    def params(self) -> Params:
        return Params(self.encoder, self.loss)


@dataclasses.dataclass(frozen=True)
class Step:
    """One training step, in two compiled parts."""

    # (Params, pairs, candidates, key) -> (gradients, metrics); a program per batch shape and candidate rule
    differentiate: Callable
    # (state, gradients, number of valid pairs) -> (state, metrics); one program for all tasks; donates the state
    update: Callable

    def __call__(
        self, state: TrainState, pairs: Pairs, candidates: Candidates, key: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        grads, metrics = self.differentiate(state.params, pairs, candidates, key)
        state, update_metrics = self.update(state, grads, metrics["pairs"])
        return state, {**metrics, **update_metrics}


def make_step(loss: Loss, optimizer: optax.GradientTransformation, trainable: ParamFilter = all_params) -> Step:
    """Return the step of a loss.

    Gradients and `state.optimizer` are of Params: the encoder's parameters that `trainable` chooses by path, and all
    of the loss's own.
    """

    @functools.partial(jax.jit, static_argnums=2)
    def differentiate(
        params: Params, pairs: Pairs, candidates: Candidates, key: jax.Array
    ) -> tuple[Params, dict[str, jax.Array]]:
        encoder, frozen = split_params(params.encoder, trainable)

        def loss_of_trained(trained: Params) -> tuple[jax.Array, dict[str, jax.Array]]:
            return loss(Params(merge_params(trained.encoder, frozen), trained.loss), pairs, candidates, key)

        (value, metrics), grads = jax.value_and_grad(loss_of_trained, has_aux=True)(Params(encoder, params.loss))
        return grads, {"loss": value, **metrics, **count_batch(pairs)}

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: TrainState, grads: Params, valid_pairs: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        encoder, frozen = split_params(state.encoder, trainable)
        trained = Params(encoder, state.loss)

        def learn() -> tuple[Params, optax.OptState]:
            updates, optimizer_state = optimizer.update(grads, state.optimizer, trained)
            return optax.apply_updates(trained, updates), optimizer_state

        # Without a valid pair nothing changes; else momentum and weight decay would move the parameters all the same.
        trained, optimizer_state = jax.lax.cond(valid_pairs > 0, learn, lambda: (trained, state.optimizer))
        encoder = merge_params(trained.encoder, frozen)
        consecutive, total = optim.skipped_updates(optimizer_state)
        metrics = {"grad_norm": optax.tree.norm(grads), "skipped": total, "skipped_in_a_row": consecutive}
        return TrainState(state.step + 1, encoder, trained.loss, optimizer_state), metrics

    return Step(differentiate, update)


def count_batch(pairs: Pairs) -> dict[str, jax.Array]:
    """Count a batch's valid, quarantined, overflowed and truncated pairs, its tokens, and its share of padding."""
    segments = [inputs.segments for inputs in (pairs.query, pairs.target, pairs.negative)]
    tokens = functools.reduce(jnp.add, (jnp.sum(ids > 0, dtype=jnp.float32) for ids in segments))
    overflowed = jnp.int32(0) if pairs.packed is None else jnp.sum(pairs.packed.overflowed)
    return {
        "quarantined": jnp.sum(~pairs.valid) - overflowed,
        "overflowed": overflowed,
        "truncated": jnp.int32(0) if pairs.truncated is None else jnp.sum(pairs.truncated),
        "pairs": jnp.sum(pairs.valid),
        "tokens": tokens,
        # a float: a batch of millions of pairs has more tokens than an i32 holds
        "padding": 1 - tokens / float(sum(ids.size for ids in segments)),
    }
