"""The report's findings: every fork of experiments/finetune.py beside its parent, three seeds each.

  run     python -m experiments.studies.findings --config=configs/cpu.py          # after experiments/recipe.py
  yours   python -m experiments.studies.findings --config.pairs=FOLDER            # forks of pairs.py, on datasets of your own
          # a dataset without a train split is scored, and says what is left on domains that were not trained on
  some    python -m experiments.studies.findings --config.forks=no_mask,only_short
  smoke   python -m experiments.studies.findings --config.steps=2 --config.workdir=FOLDER   # one with prefinetune in it
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
from embed.data import discover
from embed.data.sources import open_split, read_records
from embed.distributed import hosts, storage
from embed.embedder import Embedder
from embed.eval import compare
from embed.eval import suite as evaluate
from embed.eval.benchmarks import Benchmark, dataset_of, from_pairs, score
from embed.model.presets import PRESETS
from embed.report import comparison, page
from embed.retrieval import quantize
from embed.training import checkpoint, loop, soup
from embed.training.config_check import ConfigError
from embed.training.main import run
from embed.training.prepare import open_sources, prepare_preprocessor
from experiments import finetune, own_data
from experiments.ablations import finetune__more_media
from experiments.studies import cascade, negatives, order

log = logging.getLogger(__name__)
NAME = "findings"
SEEDS = (0, 1, 2)
NO_STRING = ", no task string"
UNSEEN = ", not trained on"
SOUPS = ("soup_of_a_run", "soup_uniform", "soup_weighted", "soup_greedy")
WEIGHTS = (2.0, 1.0)  # of soup_weighted
SOUP_CLAIM = "An average over runs is better than the run it starts from; over steps of a run, less so."
SEEDS_TITLE = "Model soup over seeds: runs of one experiment, which differ in the order of their data."
SEEDS_CLAIM = "Every run is worse than the average of all of its experiment."
COARSE = {"int8": quantize.to_int8, "binary": quantize.to_binary}


def chosen(asked: str, first: ModuleType = finetune) -> list[ModuleType]:
    """An experiment and its forks that have a hypothesis; or those of a list by comma, without the experiment's name,
    and what they are forks of."""
    names = [one.name for one in pkgutil.iter_modules(experiments.__path__)]
    names = [name for name in names if name.split("__")[0] == first.NAME]  # a parent before its forks
    found = {name: importlib.import_module(f"experiments.{name}") for name in names}
    wanted = {f"{first.NAME}__{name.strip()}" for name in asked.split(",") if name.strip()}
    if missing := sorted(wanted - set(found)):
        raise ConfigError(f"--config.forks: no experiments/{missing[0]}.py; there are: {', '.join(found)}")
    wanted = wanted or {name for name, module in found.items() if compare.parse_docstring(module.__doc__)[1]}
    needed = {first.NAME, *wanted, *(name.rpartition("__")[0] for name in wanted)}
    return [module for name, module in found.items() if name in needed]


def folder(work: storage.Path, name: str, seed: int) -> storage.Path:
    return work / NAME / f"{name}_{seed}"


def trained(config: ConfigDict, module: ModuleType, seed: int) -> None:
    """One experiment from this seed, which its forks share."""
    plan, preprocessor = (
        planned(config, module),
        prepare_preprocessor(PRESETS[config.model], storage.path(config.data), config.pairs),
    )
    place = folder(storage.path(config.workdir), module.NAME, seed)
    plan = dataclasses.replace(plan, folder=place, seed=100 * seed + plan.seed)
    loop.fit(plan, preprocessor, open_sources(plan.tasks, storage.path(config.pairs or config.data)))


def planned(config: ConfigDict, module: ModuleType) -> loop.Run:
    """What an experiment says; one on datasets of yours is told its tasks."""
    if not config.pairs:
        return module.plan(config)
    preprocessor = prepare_preprocessor(PRESETS[config.model], storage.path(config.data), config.pairs)
    return module.plan(config, discover.make_tasks(config.pairs, preprocessor, module.MOST, module.BATCH, module.BOTH))


def souped(config: ConfigDict, seed: int, dev: Sequence[evaluate.PreparedBenchmark], embedder: Embedder) -> None:
    """The soups of this seed's two mixtures."""
    work = storage.path(config.workdir)
    runs = [folder(work, module.NAME, seed) for module in (finetune, finetune__more_media)]
    steps = [[one / "checkpoints" / str(step) for step in checkpoint.saved_steps(one)[-2:]] for one in runs]
    last = [own[-1] for own in steps]

    def mean_score(params: dict) -> float:
        widths = embedder.encoder.arch.matryoshka_dims
        return evaluate.mean_ndcg(evaluate.evaluate(dev, evaluate.encode_suite(embedder, params, dev), widths))

    recipes = {
        "soup_of_a_run": (steps[0], (1.0,) * len(steps[0])),
        "soup_uniform": (last, (1.0, 1.0)),
        "soup_weighted": (last, WEIGHTS),
    }
    for name, (offered, weights) in recipes.items():
        averaged(folder(work, name, seed), offered, weights)
    if not (folder(work, "soup_greedy", seed) / "tokenizer.json").exists():
        params, kept, trials = soup.greedy([one for own in steps for one in own], mean_score)
        soup.save(folder(work, "soup_greedy", seed), params, kept, weights=[1.0] * len(kept), trials=trials)


def seeds_souped(work: storage.Path, name: str) -> storage.Path:
    """The soup of an experiment's seeds, which start from one checkpoint."""
    place, runs = work / NAME / f"{name}_soup", [folder(work, name, seed) for seed in SEEDS]
    last = [run / "checkpoints" / str(checkpoint.saved_steps(run)[-1]) for run in runs]
    averaged(place, last, (1.0,) * len(last))
    return place


def averaged(place: storage.Path, parents: Sequence[storage.Path], weights: Sequence[float]) -> None:
    """The soup of these checkpoints, where it is not there already."""
    if not (place / "tokenizer.json").exists():
        soup.save(place, soup.average(parents, weights), parents, weights=weights)


def load(embedder: Embedder, config: ConfigDict) -> list[evaluate.PreparedBenchmark]:
    """The test suite, and once more without a task string those that have one; or the test splits of your datasets."""
    if config.pairs:
        known = {folder.name for folder in discover.find_datasets(config.pairs, "train")}
        suite = evaluate.load_datasets(embedder, config.pairs, "test")
        return [(one if dataset_of(one.name) in known else unseen(one), *sides) for one, *sides in suite]
    data = storage.path(config.data)
    suite = evaluate.load_suite(embedder, data, "test")
    for name, (soft_tokens, task, _) in evaluate.SUITE.items():
        if task:
            there, back = from_pairs(name + NO_STRING, read_records(open_split(data / name, "test")), "no task string")
            suite += evaluate.prepare_benchmark(embedder, there, back, None, soft_tokens)
    return suite


def unseen(one: Benchmark) -> Benchmark:
    own = dataset_of(one.name)
    return dataclasses.replace(one, name=f"{own}{UNSEEN}{one.name.removeprefix(own)}")


def scored(place: storage.Path, suite: Sequence[evaluate.PreparedBenchmark], embedder: Embedder) -> None:
    """results.json of a run or soup that has none: at every width, and of whole vectors in fewer bits."""
    if (place / "results.json").exists():
        return
    params = checkpoint.load_params(place, checkpoint.param_structs(embedder.encoder))
    widths, vectors = embedder.encoder.arch.matryoshka_dims, evaluate.encode_suite(embedder, params, suite)
    results = evaluate.evaluate(suite, vectors, widths)
    for (one, *_), (queries, corpus) in zip(suite, vectors, strict=True):
        for bits, coarse in COARSE.items():
            found = score(one, *(coarse(side).astype("f4") for side in (queries, corpus)), widths[-1:])
            results[one.name][widths[-1]][f"ndcg@10, {bits}"] = found[widths[-1]]["ndcg@10"]
    log.info("%s: mean nDCG@10 %.3f", place.name, evaluate.mean_ndcg(results))
    if hosts.is_primary():
        (place / "results.json").write_text(json.dumps(results))


def rows(results: compare.Results) -> dict[str, list[compare.MetricKey]]:
    """A table for what these results hold: every dataset, both ways; texts without their string; those not trained on;
    all at other widths, and in fewer bits; all."""
    whole = [name for name in results if NO_STRING not in name]
    bare = [name for name in results if NO_STRING in name]
    new = [name for name in whole if UNSEEN in name]
    *narrow, width = sorted(results[whole[0]])

    def mean(names: Sequence[str], width: int = width, metric: str = "ndcg@10") -> list[compare.MetricKey]:
        return [(name, width, metric) for name in names]

    return {
        **{
            one: mean([name for name in whole if dataset_of(name) == one])
            for one in dict.fromkeys(map(dataset_of, whole))
        },
        **({"texts without task string": mean(bare)} if bare else {}),
        **({f"mean{UNSEEN}": mean(new)} if new else {}),
        **{f"mean at {short} dimensions": mean(whole, short) for short in narrow},
        **{f"mean in {bits}": mean(whole, metric=f"ndcg@10, {bits}") for bits in COARSE},
        "mean": mean(whole),
    }


def compared(work: storage.Path) -> Iterator[compare.Comparison]:
    """What there are results of: a fork and its parent, the soups and their runs, by the seeds that all have;
    the soup of an experiment's seeds and these, by the experiments."""

    def one(title: str, claim: str, runs: dict[str, list[storage.Path]], over: str) -> Iterator[compare.Comparison]:
        columns = compare.read_results({name: [run / "results.json" for run in own] for name, own in runs.items()})
        found = next(iter(columns.values()))
        if found:
            table = rows(found[0])
            apart = [row for row in table if row.endswith(UNSEEN) and row != f"mean{UNSEEN}"]
            spreads = {f"spread{UNSEEN}": apart} if len(apart) > 1 else {}
            yield compare.Comparison(title, claim, columns, table, spreads=spreads, replicates=over)

    def by_seed(*names: str) -> dict[str, list[storage.Path]]:
        return {name: [folder(work, name, seed) for seed in SEEDS] for name in names}

    for first in (finetune, own_data):
        modules = chosen("", first)
        for module in modules[1:]:
            names = module.NAME.rpartition("__")[0], module.NAME
            yield from one(*compare.parse_docstring(module.__doc__), by_seed(*names), "seed")
        if first is finetune:
            yield from one("Model soup.", SOUP_CLAIM, by_seed(finetune.NAME, finetune__more_media.NAME, *SOUPS), "seed")
        soups = {"soup": [work / NAME / f"{module.NAME}_soup" for module in modules]}
        runs = {f"seed {seed}": [folder(work, module.NAME, seed) for module in modules] for seed in SEEDS}
        yield from one(SEEDS_TITLE, SEEDS_CLAIM, soups | runs, "experiment")
    for other in (cascade, negatives, order):
        yield from other.compared(work)


def written(work: storage.Path, found: Sequence[compare.Comparison]) -> str:
    """The page, and the tables that are also returned."""
    text = "\n\n".join([compare.format_overview(found), *map(compare.format_markdown, found)]) + "\n"
    (work / NAME / "findings.md").write_text(text)
    head = (
        '<header class="hero"><div><h1>Findings</h1><p class="lead">Experiments beside their parent. Differences are '
        "taken seed by seed; bars are 95 % intervals.</p></div></header><main>"
    )
    page.save(work / NAME / "findings.html", "findings", [head, comparison.sections(found), "</main>"])
    return text


def main(config: ConfigDict) -> None:
    work = storage.path(config.workdir)
    modules = chosen(config.forks, own_data if config.pairs else finetune)
    if config.pairs:
        discover.require_benchmarks(config.pairs)
    embedder, suite, dev = None, [], []
    for seed in SEEDS:
        for module in modules:
            place = folder(work, module.NAME, seed)
            trained(config, module, seed)
            if embedder is None:  # of the first, which is no fork
                embedder = Embedder.load(place)
                suite = load(embedder, config)
            scored(place, suite, Embedder(planned(config, module).encoder, {}, embedder.preprocessor))
        if finetune__more_media in modules:
            dev = dev or evaluate.load_suite(embedder, storage.path(config.data), "dev")
            souped(config, seed, dev, embedder)
            for name in SOUPS:
                scored(folder(work, name, seed), suite, embedder)
        if hosts.is_primary():
            written(work, list(compared(work)))
    for module in modules:
        plan = planned(config, module)
        if plan.init:  # seeds that start from random weights have no average
            scored(seeds_souped(work, module.NAME), suite, Embedder(plan.encoder, {}, embedder.preprocessor))
    if hosts.is_primary():
        print(written(work, list(compared(work))))
        print(f"The page of findings: {storage.absolute(work / NAME / 'findings.html')}")


if __name__ == "__main__":
    run(main)
