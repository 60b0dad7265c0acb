"""Evaluation during training: scores are logged when due, the best encoder is kept, and a resumed run agrees."""

import signal

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ARCH
from test_loop import GOOD, Records, rows, same

from embed.embedder import Embedder
from embed.model.build import build
from embed.training import checkpoint, loop, optim
from embed.training.evals import read_best
from embed.training.metadata import read_metadata
from embed.training.weights import load_params

SCORES = {1: 0.1, 2: 0.3, 3: 0.2, 4: 0.7, 5: 0.4, 6: 0.5, 7: 0.6}  # by steps trained
OPTIMIZER = optax.apply_if_finite(optax.sgd(1.0), optim.NEVER)


class StepCounter:
    """A score that is looked up by the vocabulary's mean, which the loss below raises by one a step."""

    def __init__(self, scores=SCORES, action=lambda step: None):
        self.scores, self.action, self.calls = scores, action, []

    def __call__(self, params, preprocessor):
        step = round(float(jnp.mean(params["vocabulary"])))
        self.calls.append(step)
        self.action(step)
        return {"ndcg@10": self.scores[step], "accuracy": step / 10}


def rise(params, pairs, candidates, key):
    """A loss whose gradient is minus one for every number of the vocabulary."""
    return -jnp.sum(params.encoder["vocabulary"]), {}


def fit(folder, preprocessor, score, steps=7, every=2):
    run = loop.Run(
        build(ARCH), [GOOD], rise, OPTIMIZER, steps, seed=0, data=folder, folder=folder,
        init_transform=lambda key, params: params | {"vocabulary": jnp.zeros_like(params["vocabulary"])},
        evals=[loop.Eval("dev", every, score)], loop=loop.LoopConfig(save=3, keep=9),
    )  # fmt: skip
    return loop.fit(run, preprocessor, [Records()])


def scores(run) -> dict[int, dict]:
    return {row["step"]: row for row in rows(run) if "task" not in row}


def test_scores_are_logged_every_two_steps_and_at_the_last_and_the_best_is_kept(tmp_path, preprocessor, caplog):
    caplog.set_level("INFO")
    score = StepCounter()
    fit(tmp_path, preprocessor, score)
    assert score.calls == [2, 4, 6, 7]
    assert scores(tmp_path) == {
        step: {"step": step, "eval/dev/ndcg@10": SCORES[step], "eval/dev/accuracy": step / 10} for step in score.calls
    }
    assert [row["step"] for row in rows(tmp_path) if "task" in row] == list(range(7))
    assert "step 4/7 eval/dev/ndcg@10 0.7000" in caplog.text and "illegal" not in caplog.text

    best = tmp_path / "best"
    assert checkpoint.saved_steps(best) == [4]
    assert read_best(best) == {"metric": "dev/ndcg@10", "score": 0.7, "step": 4}
    embedder = Embedder.load(best)
    assert float(jnp.mean(embedder.params["vocabulary"])) == 4
    assert read_metadata(best)["architecture"] == read_metadata(tmp_path)["architecture"]


class Killed(Exception):
    """Stands for the end of the process."""


def kill(step: int) -> None:
    if step == 6:
        raise Killed


def interrupt(step: int) -> None:
    if step == 3:
        signal.raise_signal(signal.SIGINT)


# Killed at 6 it goes on from 3, and the best, of 4, is ahead of it; interrupted at 4 it is saved before its evaluation.
@pytest.mark.parametrize(
    ("action", "every", "reached", "error"), [(kill, 2, 3, Killed), (interrupt, 1, 4, KeyboardInterrupt)]
)
def test_a_resumed_run_keeps_the_best_and_counts_nothing_twice(tmp_path, preprocessor, action, every, reached, error):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    fit(straight, preprocessor, StepCounter(), every=every)
    with pytest.raises(error):
        fit(stopped, preprocessor, StepCounter(action=action), every=every)
    assert checkpoint.saved_steps(stopped)[-1] == reached
    score = StepCounter()
    fit(stopped, preprocessor, score, every=every)
    assert score.calls == [step for step in scores(straight) if step >= reached]
    assert scores(stopped) == scores(straight) and len(rows(stopped)) == len(rows(straight))
    assert read_best(stopped / "best") == read_best(straight / "best")
    assert checkpoint.saved_steps(stopped / "best") == [4]
    assert all(same(*(load_params(run / "best") for run in (straight, stopped))))


def test_a_run_without_a_checkpoint_drops_the_best_of_another(tmp_path, preprocessor):
    fit(tmp_path, preprocessor, StepCounter({2: 9.0}), steps=2)
    for step in checkpoint.saved_steps(tmp_path):
        (tmp_path / "checkpoints" / str(step) / "commit_success.txt").unlink()
    fit(tmp_path, preprocessor, StepCounter(), steps=2)
    assert read_best(tmp_path / "best")["score"] == 0.3


def test_a_score_that_is_not_a_number_is_never_the_best(tmp_path, preprocessor):
    fit(tmp_path, preprocessor, StepCounter(SCORES | {2: np.nan, 4: np.nan}))
    assert read_best(tmp_path / "best") == {"metric": "dev/ndcg@10", "score": 0.6, "step": 7}


def test_evaluations_that_cannot_be_run_are_refused(tmp_path, preprocessor):
    with pytest.raises(ValueError, match="evaluation dev: every is a number of steps of at least 1, not 0"):
        loop.Eval("dev", 0, StepCounter())
    twice = [loop.Eval("dev", 1, StepCounter())] * 2
    with pytest.raises(ValueError, match="names of their own, not dev, dev"):
        loop.Run(build(ARCH), [GOOD], rise, OPTIMIZER, 1, seed=0, data=tmp_path, evals=twice)
    with pytest.raises(ValueError, match="evaluation dev returned no metric"):
        fit(tmp_path, preprocessor, lambda params, preprocessor: {})


def test_a_finished_run_is_said_to_be_and_not_evaluated_again(tmp_path, preprocessor, caplog):
    fit(tmp_path, preprocessor, StepCounter())
    caplog.clear()
    caplog.set_level("INFO")
    score = StepCounter()
    state = fit(tmp_path, preprocessor, score)
    assert int(state.step) == 7 and score.calls == []
    messages = [record.message for record in caplog.records if record.name.startswith("embed")]
    assert messages == [f"{tmp_path} is finished at step 7"]
