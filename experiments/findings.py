"""The report's findings: every fork of experiments/finetune.py beside its parent, three seeds each.

  run     python -m experiments.findings --config=configs/cpu.py          # after experiments/recipe.py
  some    python -m experiments.findings --config.forks=no_mask,only_short
  smoke   python -m experiments.findings --config.steps=2 --config.workdir=FOLDER   # one with prefinetune in it
Stopped anywhere, the same command goes on; done runs are not repeated, and the tables are made of their results alone:
runs/findings/findings.md and findings.html. A fork of yours joins by its file: what is shown of it are the first line
of its docstring and the one that begins with "Hypothesis:".
"""

import dataclasses
import importlib
import json
import logging
import pkgutil
from collections.abc import Iterator, Sequence
from types import ModuleType

from ml_collections import ConfigDict

import experiments
from embed import checkpoint, hosts, quantise, soup, storage, train
from embed.api import Embedder
from embed.data.prepare import layout_for, sources
from embed.data.sources import open_split, read
from embed.eval import compare, report
from embed.eval.benchmarks import from_pairs, score
from embed.model.presets import PRESETS
from embed.program import run
from experiments import cascade, evaluate, finetune, finetune__more_media, negatives, order

log = logging.getLogger(__name__)
NAME = "findings"
SEEDS = (0, 1, 2)
NO_STRING = ", no task string"
SOUPS = ("soup_of_a_run", "soup_uniform", "soup_weighted", "soup_greedy")
WEIGHTS = (2.0, 1.0)  # of soup_weighted
SOUP_CLAIM = "An average over runs is better than the run it starts from; over steps of a run, less so."
COARSE = {"int8": quantise.to_int8, "binary": quantise.to_binary}


def chosen(asked: str) -> list[ModuleType]:
    """finetune and its forks that have a hypothesis; or those of a list by comma, without `finetune__`, and what they
    are forks of."""
    names = [one.name for one in pkgutil.iter_modules(experiments.__path__)]
    names = [name for name in names if name.split("__")[0] == finetune.NAME]  # a parent before its forks
    found = {name: importlib.import_module(f"experiments.{name}") for name in names}
    wanted = {f"{finetune.NAME}__{name.strip()}" for name in asked.split(",") if name.strip()}
    if missing := sorted(wanted - set(found)):
        raise SystemExit(f"error: --config.forks: no experiments/{missing[0]}.py; there are: {', '.join(found)}")
    wanted = wanted or {name for name, module in found.items() if compare.asked(module.__doc__)[1]}
    needed = {finetune.NAME, *wanted, *(name.rpartition("__")[0] for name in wanted)}
    return [module for name, module in found.items() if name in needed]


def folder(work: storage.Path, name: str, seed: int) -> storage.Path:
    return work / NAME / f"{name}_{seed}"


def trained(config: ConfigDict, module: ModuleType, seed: int) -> None:
    """One experiment from this seed, which its forks share."""
    work, data = storage.path(config.workdir), storage.path(config.data)
    plan = module.plan(config)
    plan = dataclasses.replace(plan, folder=folder(work, module.NAME, seed), seed=100 * seed + plan.seed)
    train.fit(plan, layout_for(PRESETS[config.model], data), sources(module.TASKS, data))


def souped(config: ConfigDict, seed: int, dev: Sequence[evaluate.Ready], embedder: Embedder) -> None:
    """The soups of this seed's two mixtures."""
    work = storage.path(config.workdir)
    runs = [folder(work, module.NAME, seed) for module in (finetune, finetune__more_media)]
    steps = [[one / "checkpoints" / str(step) for step in checkpoint.steps(one)[-2:]] for one in runs]
    last = [own[-1] for own in steps]

    def mean_score(params: dict) -> float:
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
        params, kept, trials = soup.greedy([one for own in steps for one in own], mean_score)
        soup.save(folder(work, "soup_greedy", seed), params, kept, weights=[1.0] * len(kept), trials=trials)


def load(embedder: Embedder, data: storage.Path) -> list[evaluate.Ready]:
    """The test suite, and once more without a task string those that have one."""
    suite = evaluate.load_suite(embedder, data, "test")
    for name, (patches, task) in evaluate.SUITE.items():
        if task:
            there, back = from_pairs(name + NO_STRING, read(open_split(data / name, "test")), "no task string")
            suite += evaluate.lay_out(embedder, there, back, None, patches)
    return suite


def scored(place: storage.Path, suite: Sequence[evaluate.Ready], embedder: Embedder) -> None:
    """results.json of a run or soup that has none: at every width, and of whole vectors in fewer bits."""
    if (place / "results.json").exists():
        return
    params = checkpoint.load_params(place, checkpoint.shapes(embedder.encoder))
    widths, vectors = embedder.encoder.arch.widths, evaluate.encode(embedder, params, suite)
    results = evaluate.evaluate(suite, vectors, widths)
    for (one, *_), (queries, corpus) in zip(suite, vectors, strict=True):
        for bits, coarse in COARSE.items():
            found = score(one, *(coarse(side).astype("f4") for side in (queries, corpus)), widths[-1:])
            results[one.name][widths[-1]][f"ndcg@10, {bits}"] = found[widths[-1]]["ndcg@10"]
    log.info("%s: mean nDCG@10 %.3f", place.name, evaluate.mean(results))
    if hosts.leads():
        (place / "results.json").write_text(json.dumps(results))


def rows(widths: Sequence[int]) -> dict[str, list[compare.Place]]:
    """A table: every dataset, both ways; texts without their string; all at other widths, and in fewer bits; all."""

    def both(name: str, width: int = widths[-1], metric: str = "ndcg@10") -> list[compare.Place]:
        return [(f"{name}: {way}", width, metric) for way in ("query→target", "target→query")]

    def every(width: int = widths[-1], metric: str = "ndcg@10") -> list[compare.Place]:
        return [place for name in evaluate.SUITE for place in both(name, width, metric)]

    bare = [name + NO_STRING for name, (_, task) in evaluate.SUITE.items() if task]
    return {
        **{name: both(name) for name in evaluate.SUITE},
        "texts without task string": [place for name in bare for place in both(name)],
        **{f"mean of {width} numbers": every(width) for width in widths[:-1]},
        **{f"mean in {bits}": every(metric=f"ndcg@10, {bits}") for bits in COARSE},
        "mean": every(),
    }


def compared(work: storage.Path, modules: Sequence[ModuleType], widths: Sequence[int]) -> Iterator[compare.Comparison]:
    """What there are results of: a fork and its parent, the soups and their runs, by the seeds that all have."""

    def one(title: str, claim: str, names: Sequence[str]) -> Iterator[compare.Comparison]:
        files = {name: [folder(work, name, seed) / "results.json" for seed in SEEDS] for name in names}
        columns = compare.read(files)
        if columns[names[0]]:
            yield compare.Comparison(title, claim, columns, rows(widths))

    for module in modules:
        if module is not finetune:
            yield from one(*compare.asked(module.__doc__), (module.NAME.rpartition("__")[0], module.NAME))
    yield from one("Model soup.", SOUP_CLAIM, (finetune.NAME, finetune__more_media.NAME, *SOUPS))
    for other in (cascade, negatives, order):
        yield from other.compared(work)


def written(work: storage.Path, found: Sequence[compare.Comparison]) -> str:
    """The page, and the tables that are also returned."""
    text = "\n\n".join([compare.overview(found), *map(compare.markdown, found)]) + "\n"
    (work / NAME / "findings.md").write_text(text)
    head = (
        '<header class="hero"><div><h1>Findings</h1><p class="lead">Experiments beside their parent. Differences are '
        "taken seed by seed; bars are 95 % intervals.</p></div></header><main>"
    )
    report.save(work / NAME / "findings.html", "findings", [head, compare.sections(found), "</main>"])
    return text


def main(config: ConfigDict) -> None:
    work, data = storage.path(config.workdir), storage.path(config.data)
    modules = chosen(config.forks)
    embedder, suite, dev = None, [], []
    for seed in SEEDS:
        for module in modules:
            trained(config, module, seed)
            if embedder is None:  # of finetune, which is first
                embedder = Embedder.load(folder(work, module.NAME, seed))
                suite = load(embedder, data)
            own = Embedder(module.plan(config).encoder, {}, embedder.layout)
            scored(folder(work, module.NAME, seed), suite, own)
        if finetune__more_media in modules:
            dev = dev or evaluate.load_suite(embedder, data, "dev")
            souped(config, seed, dev, embedder)
            for name in SOUPS:
                scored(folder(work, name, seed), suite, embedder)
        if hosts.leads():
            text = written(work, list(compared(work, modules, embedder.encoder.arch.widths)))
    if hosts.leads():
        print(text)
        print(f"The page of findings: {storage.absolute(work / NAME / 'findings.html')}")


if __name__ == "__main__":
    run(main)
