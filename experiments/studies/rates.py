"""Which task weights? Short fine-tunings on mixtures drawn around finetune.py's, scored on dev, and what weights did.

Hypothesis: a task gains from its own weight and loses from the others', and the parent's weights are near the best.

    python -m experiments.studies.rates

Mixture 0 is the parent's. All start from the same checkpoint with the same seed; finished runs are not repeated.
"""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from embed.data.tasks import Task
from embed.distributed import hosts, storage
from embed.embedder import Embedder
from embed.eval import suite as suites
from embed.training import optim
from embed.training.config_check import trusted_classes
from embed.training.main import load_run, run_script, train
from experiments import finetune

log = logging.getLogger(__name__)
NAME = "rates"
NUM_MIXTURES = 12
STEPS = 80
SPREAD = 0.7  # standard deviation of a weight's logarithm


def draw_mixtures() -> list[tuple[Task, ...]]:
    """Return the parent's tasks with its own weights, then with weights drawn around them."""
    rng, parent = np.random.default_rng(0), np.array([task.weight for task in finetune.TASKS])
    drawn = [parent, *(parent * np.exp(rng.normal(0, SPREAD, len(parent))) for _ in range(NUM_MIXTURES - 1))]
    return [
        tuple(
            dataclasses.replace(task, weight=float(weight))
            for task, weight in zip(finetune.TASKS, weights / weights.sum(), strict=True)
        )
        for weights in drawn
    ]


def fit_slopes(weights: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Estimate what e times a task's weight adds to a score while the others' shares fall.

    Ridge regression of scores f64[n] on log weights f64[n,t]. Returns slopes f64[t] and their standard errors.
    """
    x = np.log(weights) - np.log(weights).mean(axis=0)
    y = scores - scores.mean()
    inverse = np.linalg.inv(x.T @ x + np.eye(x.shape[1]))
    slope = inverse @ x.T @ y
    noise = ((y - x @ slope) ** 2).sum() / max(len(y) - np.trace(x @ inverse @ x.T) - 1, 1)
    return slope, np.sqrt(noise * np.diag(inverse @ x.T @ x @ inverse))


def format_table(mixtures: Sequence[Sequence[Task]], scores: Sequence[Mapping[str, float]]) -> str:
    """Return Markdown: the mixtures, best first; then what the weights did to the mean and to each task's own score."""
    names = [task.name for task in mixtures[0]]
    weights = np.array([[task.weight for task in mixture] for mixture in mixtures])
    mean = np.array([np.mean(list(by_benchmark.values())) for by_benchmark in scores])
    lines = ["| mixture | mean nDCG@10 | " + " | ".join(names) + " |", "|---" * (2 + len(names)) + "|"]
    for n in np.argsort(-mean):
        cells = [f"{weight:.2f}" for weight in weights[n]]
        lines.append(f"| {n} | {100 * mean[n]:.1f} | " + " | ".join(cells) + " |")
    slope, error = fit_slopes(weights, 100 * mean)
    lines += ["", "| task | e times its weight: mean | its own score |", "|---|---|---|"]
    for i, name in enumerate(names):
        directions = [[v for key, v in by_benchmark.items() if key.startswith(f"{name}: ")] for by_benchmark in scores]
        cell = ""
        if all(directions):
            own_slope, own_error = fit_slopes(weights, 100 * np.mean(directions, axis=1))
            cell = f"{own_slope[i]:+.1f} ± {own_error[i]:.1f}"
        lines.append(f"| {name} | {slope[i]:+.1f} ± {error[i]:.1f} | {cell} |")
    return "\n".join(lines)


def main(config: ConfigDict) -> None:
    root = storage.path(config.workdir) / NAME
    mixtures, scores = draw_mixtures(), []
    suite: list[suites.PreparedBenchmark] = []
    for number, tasks in enumerate(mixtures):
        run = dataclasses.replace(
            load_run(finetune.plan, config),
            folder=root / str(number),
            tasks=tasks,
            optimizer=optim.adamw(finetune.LEARNING_RATE, warmup=10, steps=STEPS),
            steps=config.steps or STEPS,
            evals=(),  # scored at the end alone
        )
        train(run, config)
        embedder = Embedder.load(run.folder, trust=trusted_classes(config))
        suite = suite or suites.load_suite(embedder, storage.path(config.data), "dev")
        vectors = suites.encode_suite(embedder, embedder.params, suite)
        results = suites.evaluate(suite, vectors, embedder.encoder.arch.matryoshka_dims)
        scores.append({name: by_width[max(by_width)]["ndcg@10"] for name, by_width in results.items()})
        log.info("mixture %d: mean nDCG@10 %.3f", number, np.mean(list(scores[-1].values())))
    if hosts.is_primary():
        (root / "scores.json").write_text(json.dumps(scores, indent=1))
        print(format_table(mixtures, scores))


if __name__ == "__main__":
    run_script(main)
