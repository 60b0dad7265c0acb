"""The interface of a loss: a function of parameters and a batch, which may have parameters of its own.

    @dataclasses.dataclass(frozen=True)
    class Contrastive:
        encoder: nn.Module

        def init(self, key):
            return {"temperature": {"scale": init_log_temperature(0.05)}}

        def __call__(self, params, pairs, candidates, key):
            sides = encode_pairs(lambda rows: self.encoder.apply({"params": params.encoder}, rows), pairs)
            temperature = clipped_exp(params.loss["temperature"]["scale"])
            return contrastive_loss(*sides, pairs, temperature=temperature, widths=(768,), candidates=candidates)

A function with the same arguments is a loss too. What an `init` returns trains beside the encoder and is saved and
resumed with the run; embedders, soups and later stages read the encoder's parameters alone.
"""

from typing import Protocol

import flax.struct
import jax

from embed.batch import Candidates, Pairs


@flax.struct.dataclass
class Params:
    """The parameters that train."""

    encoder: dict
    loss: dict  # {} for a loss without parameters


class Loss(Protocol):
    """Maps parameters and a batch to a value f32[] and metrics.

    pairs: the task's batch, rows sharded over the batch axes; rows with `valid` False must not reach the value.
    candidates: the task's rule for negatives; static under jit.
    key: key[] of the step, for dropout and sampling.
    A metric is a scalar array over the whole batch, logged under its name; no metric is required.

    A loss with parameters also has `init(key) -> dict`: arrays made on the current mesh (`out_sharding=`).
    """

    def __call__(
        self, params: Params, pairs: Pairs, candidates: Candidates, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]: ...


def init_loss(loss: Loss, key: jax.Array) -> dict:
    """Initialize the loss's own parameters; {} for a loss without `init`."""
    init = getattr(loss, "init", None)
    return {} if init is None else init(key)
