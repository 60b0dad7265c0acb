"""The report's findings: experiments beside their forks, three seeds each, from one start. A table and a figure each.

  run     python -m experiments.findings --config=configs/cpu.py          # after experiments/recipe.py
  smoke   python -m experiments.findings --config.steps=2 --config.workdir=FOLDER   # one with prefinetune in it
Stopped anywhere, the same command goes on; done runs are not repeated, and the tables are made of their results alone:
runs/findings/findings.md and findings.html. A fork of your own joins by its import and a line each in TRAINED
and COMPARED.
"""

import dataclasses
import json
import logging
from collections.abc import Sequence
from types import ModuleType

from ml_collections import ConfigDict

from embed import checkpoint, hosts, soup, storage, train
from embed.api import Embedder
from embed.data.prepare import layout_for, sources
from embed.eval import compare, report
from embed.model.presets import PRESETS
from embed.program import run
from experiments import (
    evaluate,
    finetune,
    finetune__from_scratch,
    finetune__more_media,
    finetune__no_hard_negatives,
    finetune__no_mask,
    finetune__no_matryoshka,
    finetune__no_string_drop,
    finetune__no_synthetic,
    finetune__only_short,
    finetune__spread_out,
)

log = logging.getLogger(__name__)
NAME = "findings"
SEEDS = (0, 1, 2)
BOTH = ("query→target", "target→query")


@dataclasses.dataclass(frozen=True)
class Finding:
    """What is compared, on which datasets of experiments/evaluate.py, at which Matryoshka width (None: the widest)."""

    title: str
    claim: str
    columns: tuple[str, ...]  # experiments or soups, the one that the others are compared with first
    datasets: tuple[str, ...]
    width: int | None = None


EVERY = tuple(evaluate.SUITE)
TRAINED: tuple[ModuleType, ...] = (
    finetune,
    finetune__more_media,
    finetune__no_synthetic,
    finetune__from_scratch,
    finetune__no_string_drop,
    finetune__no_hard_negatives,
    finetune__no_mask,
    finetune__no_matryoshka,
    finetune__only_short,
    finetune__spread_out,
)
SOUPS = ("soup_of_a_run", "soup_uniform", "soup_weighted", "soup_greedy")
WEIGHTS = (2.0, 1.0)
COMPARED = (
    Finding("Synthetic pairs", "Code loses without them.", ("finetune", "finetune__no_synthetic"), ("stdlib_code",)),
    Finding("Pre-fine-tuning", "Without it every modality loses.", ("finetune", "finetune__from_scratch"), EVERY),
    Finding(
        "Model soup",
        "An average over runs is better than the run it starts from; over steps of a run, less so.",
        ("finetune", "finetune__more_media", *SOUPS),
        EVERY,
    ),
    Finding(
        "Dropped task strings",
        "Where they are never dropped, texts beside media (no string there) lose.",
        ("finetune", "finetune__no_string_drop"),
        EVERY,
    ),
    Finding(
        "Hard negatives",
        "Without them, what differs in one attribute is confused.",
        ("finetune", "finetune__no_hard_negatives"),
        EVERY,
    ),
    Finding(
        "Mask of equal contents",
        "Without it few labels are pushed apart.",
        ("finetune", "finetune__no_mask"),
        ("scenes_labels",),
    ),
    *(
        Finding(
            f"Matryoshka, {width} numbers",
            "Short vectors lose without a loss of their own; alone they would be hardly better.",
            ("finetune", "finetune__no_matryoshka", "finetune__only_short"),
            EVERY,
            width,
        )
        for width in (32, 64, 128)
    ),
    Finding("Spreading out", "It changes little at full precision.", ("finetune", "finetune__spread_out"), EVERY),
)


def folder(work: storage.Path, name: str, seed: int) -> storage.Path:
    return work / NAME / f"{name}_{seed}"


def trained(config: ConfigDict, seed: int) -> None:
    """Every experiment of this seed, each from its own start."""
    work, data = storage.path(config.workdir), storage.path(config.data)
    layout = layout_for(PRESETS[config.model], data)
    for module in TRAINED:
        plan = module.plan(config)
        place = folder(work, module.NAME, seed)
        plan = dataclasses.replace(plan, folder=place, seed=100 * seed + plan.seed)
        train.fit(plan, layout, sources(module.TASKS, data))


def souped(config: ConfigDict, seed: int, dev: Sequence[evaluate.Ready], embedder: Embedder) -> None:
    """The soups of this seed's runs."""
    work = storage.path(config.workdir)
    runs = [folder(work, name, seed) for name in ("finetune", "finetune__more_media")]
    steps = [[one / "checkpoints" / str(step) for step in checkpoint.steps(one)[-2:]] for one in runs]
    last = [own[-1] for own in steps]

    def score(params: dict) -> float:
        widths = embedder.encoder.arch.widths
        return evaluate.mean(evaluate.evaluate(dev, evaluate.encode(embedder, params, dev), widths))

    recipes = {
        "soup_of_a_run": (steps[0], (1.0,) * len(steps[0])),
        "soup_uniform": (last, (1.0, 1.0)),
        "soup_weighted": (last, WEIGHTS),
    }
    for name, (offered, weights) in recipes.items():
        if not (folder(work, name, seed) / "tokenizer.json").exists():
            soup.save(folder(work, name, seed), soup.average(offered, weights), offered, weights=weights)
    if not (folder(work, "soup_greedy", seed) / "tokenizer.json").exists():
        params, kept, trials = soup.greedy([one for own in steps for one in own], score)
        soup.save(folder(work, "soup_greedy", seed), params, kept, weights=[1.0] * len(kept), trials=trials)


def scored(config: ConfigDict, seed: int, test: Sequence[evaluate.Ready], embedder: Embedder) -> None:
    """results.json of every run and soup that has none."""
    for name in (*(module.NAME for module in TRAINED), *SOUPS):
        place = folder(storage.path(config.workdir), name, seed)
        if not (place / "results.json").exists():
            vectors = evaluate.encode(embedder, checkpoint.place_params(place), test)
            results = evaluate.evaluate(test, vectors, embedder.encoder.arch.widths)
            log.info("%s, seed %d: mean nDCG@10 %.3f", name, seed, evaluate.mean(results))
            if hosts.leads():
                (place / "results.json").write_text(json.dumps(results))


def written(config: ConfigDict) -> str:
    """Tables and page of what the run folders say: seeds that are whole."""
    work = storage.path(config.workdir)
    names = [*(module.NAME for module in TRAINED), *SOUPS]
    seeds = [seed for seed in SEEDS if all((folder(work, name, seed) / "results.json").exists() for name in names)]
    results = {
        name: [json.loads((folder(work, name, seed) / "results.json").read_text()) for seed in seeds] for name in names
    }
    found = [
        compare.Comparison(
            one.title,
            one.claim,
            {name: results[name] for name in one.columns},
            [f"{dataset}: {way}" for dataset in one.datasets for way in BOTH],
            width=one.width,
        )
        for one in COMPARED
    ]
    text = "\n\n".join(map(compare.markdown, found)) + "\n"
    (work / NAME / "findings.md").write_text(text)
    head = (
        '<header class="hero"><div><h1>Findings</h1><p class="lead">Experiments beside their forks, '
        f"{len(seeds)} seeds each. Differences are taken seed by seed; bars are 95 % intervals.</p></div></header>"
        "<main>"
    )
    report.save(work / NAME / "findings.html", "findings", [head, *map(compare.section, found), "</main>"])
    return text


def main(config: ConfigDict) -> None:
    data = storage.path(config.data)
    dev = test = embedder = None
    for seed in SEEDS:
        trained(config, seed)
        if embedder is None:
            embedder = Embedder.load(folder(storage.path(config.workdir), "finetune", seed))
            dev, test = (evaluate.load_suite(embedder, data, split) for split in ("dev", "test"))
        souped(config, seed, dev, embedder)
        scored(config, seed, test, embedder)
        if hosts.leads():
            text = written(config)
    if hosts.leads():
        print(text)


if __name__ == "__main__":
    run(main)
