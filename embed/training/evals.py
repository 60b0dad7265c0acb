"""Evaluation during training: scores every N steps, and the best encoder so far in RUN/best.

RUN/best is a run's folder with parameters alone; its metadata names the step and the score.
"""

import logging
from typing import Any

from embed.data.preprocess import Preprocessor
from embed.distributed import hosts, storage
from embed.model import freezing, lora
from embed.training import checkpoint
from embed.training.metadata import read_metadata
from embed.training.run import Eval, Run
from embed.training.weights import save_params

log = logging.getLogger(__name__)


class Evaluator:
    """Runs the evaluations that are due, and keeps the best encoder.

    A resumed run compares with the best of before. Steps that run again score the same, which replaces nothing.
    On many hosts all call the methods.
    """

    def __init__(
        self, run: Run, folder: storage.Path, first: int, preprocessor: Preprocessor, metadata: dict[str, Any]
    ):
        """`first` is the step the process starts at, `metadata` that of the run's checkpoints."""
        self.evals, self.steps, self.preprocessor, self.metadata = run.evals, run.steps, preprocessor, metadata
        self.folder = folder / "best"
        if run.evals and first == 0:  # of a run without a checkpoint, which may have been another program's
            checkpoint.delete_steps(self.folder, 0)
        self.best = read_best(self.folder)
        self.has_run = False  # in this process: the first evaluation compiles

    def is_due(self, step: int) -> bool:
        """Return whether an evaluation is due after `step` steps."""
        return any(self._is_due(evaluation, step) for evaluation in self.evals)

    def score(self, step: int, encoder: dict) -> dict[str, float]:
        """Run what is due after `step` steps, save the encoder if it is the best, and return eval/NAME/METRIC values.

        Raises ValueError where an evaluation returns no metric, and as `save_params` does.
        """
        params = freezing.merge_lower(lora.merge_adapters(encoder))
        scores: dict[str, float] = {}
        for evaluation in self.evals:
            if not self._is_due(evaluation, step):
                continue
            values = {metric: float(value) for metric, value in evaluation.score(params, self.preprocessor).items()}
            if not values:
                raise ValueError(f"evaluation {evaluation.name} returned no metric")
            scores |= {f"eval/{evaluation.name}/{metric}": value for metric, value in values.items()}
            if evaluation is self.evals[0]:
                metric, value = next(iter(values.items()))
                self._keep_best({"metric": f"{evaluation.name}/{metric}", "score": value, "step": step}, params)
        self.has_run = True
        return scores

    def _is_due(self, evaluation: Eval, step: int) -> bool:
        return step > 0 and (step % evaluation.every == 0 or step == self.steps)

    def _keep_best(self, scored: dict[str, Any], params: dict) -> None:
        best = self.best["score"] if self.best and self.best["metric"] == scored["metric"] else float("-inf")
        if not hosts.from_primary(scored["score"] > best):
            return
        step = scored["step"]
        metadata = self.metadata | {"best": scored}

        def write() -> None:
            checkpoint.delete_steps(self.folder, step)  # of a folder only the last step is kept
            save_params(self.folder, params, metadata, self.preprocessor.tokenizer, step=step)

        storage.with_retries(write, self.folder)
        self.best = scored
        log.info("best so far: %s %.4f at step %d", scored["metric"], scored["score"], step)


def read_best(folder: storage.Path) -> dict[str, Any] | None:
    """Return {"metric", "score", "step"} of a RUN/best folder; None where there is no checkpoint."""
    return read_metadata(folder).get("best") if checkpoint.saved_steps(folder) else None
