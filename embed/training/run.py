"""What an experiment tells the training loop."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from embed.data.preprocess import Preprocessor
from embed.data.tasks import Task
from embed.distributed import storage
from embed.losses.loss import Loss
from embed.model.build import EncoderModule
from embed.model.params import ParamFilter, all_params


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How often things happen; nothing here changes the result."""

    save: int = 100  # steps between checkpoints
    keep: int = 3  # last checkpoints that are kept
    log: int = 10  # steps between lines in the log
    workers: int = 0  # reading processes; 0 = threads
    patience: int = 20  # updates in a row that may be skipped because they are not finite
    stall: float = 1800  # seconds after which a step or evaluation ends the process; those that compile are exempt


@dataclasses.dataclass(frozen=True)
class Eval:
    """A score of the encoder during training, logged as eval/NAME/METRIC.

    score: (encoder parameters, preprocessor) -> metrics, the same on every host; the first metric of a run's first
    Eval chooses the best checkpoint, and higher is better.
    """

    name: str
    every: int  # steps; the last step is evaluated too
    score: Callable[[dict, Preprocessor], dict[str, float]]

    def __post_init__(self):
        if self.every < 1:
            raise ValueError(f"evaluation {self.name}: every is a number of steps of at least 1, not {self.every}")


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
    trainable: ParamFilter = all_params  # which of the encoder's parameters train, by path
    evals: Sequence[Eval] = ()
    loop: LoopConfig = LoopConfig()
    max_bad: float = 0.5  # share of a task's last 200 records that may be bad; more stop the run
    folder: storage.Path | None = None  # of checkpoints and logs; embed.training.main.load_run fills it in
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)  # added to the checkpoints' metadata

    def __post_init__(self):
        if not 0 <= self.max_bad <= 1:
            raise ValueError(f"max_bad is a share, from 0 to 1, not {self.max_bad:g}")
        names = [evaluation.name for evaluation in self.evals]
        if len(set(names)) < len(names):
            raise ValueError(f"evaluations need names of their own, not {', '.join(names)}")
