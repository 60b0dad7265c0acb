"""How often each task? Short fine-tunings on mixtures drawn around finetune.py's, scored on dev, and what rates did.

Hypothesis: a task gains from its own rate and loses by the others', and the parent's rates are near the best.
  smoke   python -m experiments.studies.rates --config.steps=2
  run     python -m experiments.studies.rates --config=configs/cpu.py
Mixture 0 is the parent's. All start from the same checkpoint with the same seed; a run that is there is not repeated.
"""

import dataclasses
import json
import logging
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from embed.data.tasks import Task
from embed.distributed import hosts, storage
from embed.embedder import Embedder
from embed.eval import suite as evaluate
from embed.model.presets import PRESETS
from embed.training import loop, optim
from embed.training.main import run
from embed.training.prepare import open_sources, prepare_preprocessor
from experiments import finetune

log = logging.getLogger(__name__)
NAME = "rates"
MIXTURES = 12
STEPS = 80
SPREAD = 0.7  # standard deviation of a rate's logarithm


def mixtures() -> list[tuple[Task, ...]]:
    """The parent's tasks at its own rates, then at rates drawn around them."""
    rng, rates = np.random.default_rng(0), np.array([task.weight for task in finetune.TASKS])
    drawn = [rates, *(rates * np.exp(rng.normal(0, SPREAD, len(rates))) for _ in range(MIXTURES - 1))]
    return [
        tuple(dataclasses.replace(t, weight=float(r)) for t, r in zip(finetune.TASKS, each / each.sum(), strict=True))
        for each in drawn
    ]


def slopes(rates: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What e times the rate of each task adds to a score, the others' shares falling: ridge regression of scores f64[n]
    on log rates f64[n,t]. Slopes f64[t] and their standard errors."""
    x = np.log(rates) - np.log(rates).mean(axis=0)
    y = scores - scores.mean()
    inverse = np.linalg.inv(x.T @ x + np.eye(x.shape[1]))
    slope = inverse @ x.T @ y
    noise = ((y - x @ slope) ** 2).sum() / max(len(y) - np.trace(x @ inverse @ x.T) - 1, 1)
    return slope, np.sqrt(noise * np.diag(inverse @ x.T @ x @ inverse))


def table(tasks: Sequence[tuple[Task, ...]], scores: Sequence[dict[str, float]]) -> str:
    """Markdown: the mixtures, best first; then, of the mean and of each task's own score, what the rates did."""
    names = [task.name for task in tasks[0]]
    rates = np.array([[task.weight for task in mixture] for mixture in tasks])
    mean = np.array([np.mean(list(one.values())) for one in scores])
    lines = ["| mixture | mean nDCG@10 | " + " | ".join(names) + " |", "|---" * (2 + len(names)) + "|"]
    for n in np.argsort(-mean):
        cells = [f"{rate:.2f}" for rate in rates[n]]
        lines.append(f"| {n} | {100 * mean[n]:.1f} | " + " | ".join(cells) + " |")
    slope, error = slopes(rates, 100 * mean)
    lines += ["", "| task | e times its rate: mean | its own |", "|---|---|---|"]
    for i, name in enumerate(names):
        ways = [[value for key, value in one.items() if key.startswith(f"{name}: ")] for one in scores]
        own = ""
        if all(ways):
            of_own, of_error = slopes(rates, 100 * np.mean(ways, axis=1))
            own = f"{of_own[i]:+.1f} ± {of_error[i]:.1f}"
        lines.append(f"| {name} | {slope[i]:+.1f} ± {error[i]:.1f} | {own} |")
    return "\n".join(lines)


def main(config: ConfigDict) -> None:
    data, root = storage.path(config.data), storage.path(config.workdir) / NAME
    preprocessor = prepare_preprocessor(PRESETS[config.model], data)
    tried, scores = mixtures(), []
    suite: list[evaluate.PreparedBenchmark] = []
    for number, tasks in enumerate(tried):
        plan = dataclasses.replace(
            finetune.plan(config),
            folder=root / str(number),
            tasks=tasks,
            optimizer=optim.adamw(finetune.RATE, warmup=10, steps=STEPS),
            steps=config.steps or STEPS,
        )
        loop.fit(plan, preprocessor, open_sources(tasks, data))
        embedder = Embedder.load(plan.folder)
        suite = suite or evaluate.load_suite(embedder, data, "dev")
        found = evaluate.evaluate(
            suite, evaluate.encode_suite(embedder, embedder.params, suite), embedder.encoder.arch.matryoshka_dims
        )
        scores.append({name: by_width[max(by_width)]["ndcg@10"] for name, by_width in found.items()})
        log.info("mixture %d: mean nDCG@10 %.3f", number, np.mean(list(scores[-1].values())))
    if hosts.is_primary():
        (root / "scores.json").write_text(json.dumps(scores, indent=1))
        print(table(tried, scores))


if __name__ == "__main__":
    run(main)
