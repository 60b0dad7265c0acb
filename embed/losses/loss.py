"""What a loss is: a function of parameters and a batch, which may have parameters of its own."""

from typing import Protocol

import flax.struct
import jax

from embed.batch import Pairs
from embed.losses.contrastive import Candidates


@flax.struct.dataclass
class Params:
    """Everything that trains: the encoder's parameters, and the loss's, {} where it has none."""

    encoder: dict
    loss: dict


class Loss(Protocol):
    """A differentiable function of a batch.

    It may also have `init(key) -> dict`, parameters of its own: temperatures, a bias, a projection to a teacher's
    dimensions. They train and are saved with the run; embedders and soups read the encoder's parameters alone.
    """

    def __call__(
        self, params: Params, pairs: Pairs, candidates: Candidates, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return the loss f32[] and metrics to log, scalars by name; `key` is the step's, for dropout."""


def init_loss(loss: Loss, key: jax.Array) -> dict:
    """Return the initial parameters of a loss; {} where it has none."""
    return loss.init(key) if hasattr(loss, "init") else {}
