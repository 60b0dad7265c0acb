"""The report's findings: every fork of experiments/finetune.py beside its parent, three seeds each.

    python -m experiments.studies.findings                           # after experiments/recipe.py
    python -m experiments.studies.findings --forks=no_mask,only_short
    python -m experiments.studies.findings --config.pairs=FOLDER     # forks of own_data.py, on your own datasets

A dataset without a train split is scored too: it shows what is left on domains that were not trained on. The same
command continues after an interruption and repeats no finished run. The tables, runs/findings/findings.md and
findings.html, are made of the runs' results alone. Your own fork joins by its file, experiments/ablations/
PARENT__CHANGE.py: the tables show the first line of its docstring and the line that begins with "Hypothesis:".
"""

import dataclasses
import json
import logging
from collections.abc import Collection, Sequence

from ml_collections import ConfigDict

from embed.data import discover
from embed.data.sources import open_split, read_records
from embed.distributed import hosts, storage
from embed.embedder import Embedder
from embed.eval import compare
from embed.eval import suite as suites
from embed.eval.benchmarks import Benchmark, dataset_of, from_pairs
from embed.eval.precision import evaluate_precisions
from embed.eval.similarity import SimilarityBenchmark
from embed.report import comparison, page
from embed.training import checkpoint, prepare, soup
from embed.training.config_check import ConfigError
from embed.training.main import load_experiment, load_run, run_script, train
from embed.training.run import Run
from experiments.studies.arms import SEEDS, write_results
from experiments.studies.tables import (
    NAME,
    NO_PROMPT,
    SECOND_MIXTURES,
    UNSEEN,
    compare_findings,
    forks_of,
    name_soups,
    run_folder,
)

log = logging.getLogger(__name__)
WEIGHTS = (2.0, 1.0)  # of soup_weighted


def select_forks(forks: str, parent: str) -> list[str]:
    """Return an experiment, the forks in a list by comma (without the experiment's name), and the forks those derive
    from; with an empty list, all forks. Raises ConfigError for a fork that does not exist."""
    names = forks_of(parent)
    wanted = {f"{parent}__{fork.strip()}" for fork in forks.split(",") if fork.strip()}
    if missing := sorted(wanted - set(names)):
        choices = ", ".join(name.removeprefix(f"{parent}__") for name in names)
        raise ConfigError(f"--forks: {parent} has no fork {missing[0].removeprefix(f'{parent}__')}; choices: {choices}")
    needed = wanted | {name.rpartition("__")[0] for name in wanted}
    return [parent, *(name for name in names if not wanted or name in needed)]


def plan_forks(config: ConfigDict, names: Sequence[str], must_run: bool) -> dict[str, Run]:
    """Return the runs of experiments by name. One that this config cannot run (no --config.pretrained, say) is left out
    with a log line, or raises ConfigError where it `must_run`."""
    runs = {}
    for name in names:
        try:
            runs[name] = load_run(load_experiment(name).plan, config)
        except ConfigError as error:
            if must_run:
                raise
            log.info("%s is left out: %s", name, error)
    return runs


def train_fork(config: ConfigDict, name: str, run: Run, seed: int) -> storage.Path:
    """Train an experiment from a seed that its forks share; return its folder. A run with results is left as it is: its
    checkpoints may have been deleted."""
    folder = run_folder(storage.path(config.workdir), name, seed)
    if not (folder / "results.json").exists():
        train(dataclasses.replace(run, folder=folder, seed=100 * seed + run.seed, evals=()), config)
    return folder


def make_soups(
    work: storage.Path, parent: str, seed: int, dev: list[suites.PreparedBenchmark], embedder: Embedder
) -> None:
    """Make the soups of this seed's two mixtures, unless they exist; the greedy one where there is a dev set."""
    of_a_run, uniform, weighted, greedy = (run_folder(work, name, seed) for name in name_soups(parent))
    if all((folder / "results.json").exists() for folder in (of_a_run, uniform, weighted)):
        return
    runs = [run_folder(work, name, seed) for name in (parent, SECOND_MIXTURES[parent])]
    steps = [[run / "checkpoints" / str(step) for step in checkpoint.saved_steps(run)[-2:]] for run in runs]
    last = [checkpoints[-1] for checkpoints in steps]

    def mean_score(params: dict) -> float:
        vectors = suites.encode_suite(embedder, params, dev)
        return suites.mean_ndcg(suites.evaluate(dev, vectors, embedder.encoder.arch.matryoshka_dims))

    trust = (embedder.encoder.arch.encoder,)
    average_checkpoints(of_a_run, steps[0], (1.0,) * len(steps[0]), trust)
    average_checkpoints(uniform, last, (1.0, 1.0), trust)
    average_checkpoints(weighted, last, WEIGHTS, trust)
    if dev and not (greedy / "tokenizer.json").exists():
        params, kept, trials = soup.greedy([*steps[0], *steps[1]], mean_score, trust)
        soup.save(greedy, params, kept, weights=[1.0] * len(kept), trials=trials)


def load_dev_suite(embedder: Embedder, config: ConfigDict) -> list[suites.PreparedBenchmark]:
    """Load what greedy soups are chosen by: the dev suite, or your datasets' dev splits; [] where there are none."""
    if not config.pairs:
        return suites.load_suite(embedder, storage.path(config.data), "dev")
    folders = discover.find_datasets(config.pairs, "dev")
    records = {folder.name: read_records(open_split(folder, "dev")) for folder in folders}
    return suites.prepare_suite(embedder, [suites.Directions(*from_pairs(*item)) for item in records.items()])


def average_seeds(work: storage.Path, name: str, trust: Collection[str]) -> storage.Path | None:
    """Average an experiment's seeds, which start from one checkpoint; return the soup's folder, or None where a run's
    checkpoints were deleted."""
    folder = run_folder(work, name, "soup")
    if (folder / "results.json").exists():
        return folder
    runs = [run_folder(work, name, seed) for seed in SEEDS]
    steps = [checkpoint.saved_steps(run) for run in runs]
    if not all(steps):
        log.info("%s has no soup over its seeds: a run's checkpoints were deleted", name)
        return None
    last = [run / "checkpoints" / str(saved[-1]) for run, saved in zip(runs, steps, strict=True)]
    average_checkpoints(folder, last, (1.0,) * len(last), trust)
    return folder


def average_checkpoints(
    folder: storage.Path, parents: Sequence[storage.Path], weights: Sequence[float], trust: Collection[str]
) -> None:
    """Write the soup of some checkpoints, unless it exists."""
    if not (folder / "tokenizer.json").exists():
        soup.save(folder, soup.average(parents, weights, trust), parents, weights=weights)


def load_test_suite(embedder: Embedder, config: ConfigDict) -> list[suites.PreparedBenchmark]:
    """Load the test suite, and once more without a prompt the datasets that have one; or your datasets' test splits."""
    if config.pairs:
        trained = {folder.name for folder in discover.find_datasets(config.pairs, "train")}
        suite = suites.load_datasets(embedder, config.pairs, "test")

        def is_unseen(benchmark: Benchmark | SimilarityBenchmark) -> bool:
            return isinstance(benchmark, Benchmark) and dataset_of(benchmark.name) not in trained

        return [(mark_unseen(benchmark) if is_unseen(benchmark) else benchmark, *sides) for benchmark, *sides in suite]
    data = storage.path(config.data)
    suite = suites.load_suite(embedder, data, "test")
    for name, dataset in suites.SUITE.items():
        if dataset.task:
            records = read_records(open_split(data / name, "test"))
            forward, reverse = from_pairs(name + NO_PROMPT, records, "no task string")
            suite += suites.prepare_benchmark(embedder, forward, reverse, None, dataset.soft_tokens)
    return suite


def mark_unseen(benchmark: Benchmark) -> Benchmark:
    """Say in a benchmark's name that its dataset is not trained on."""
    dataset = dataset_of(benchmark.name)
    return dataclasses.replace(benchmark, name=f"{dataset}{UNSEEN}{benchmark.name.removeprefix(dataset)}")


def score_run(folder: storage.Path, embedder: Embedder, suite: list[suites.PreparedBenchmark]) -> None:
    """Write results.json of a run or soup, unless it exists: at every width and precision."""
    if (folder / "results.json").exists():
        return
    params = embedder.load_params(folder)
    vectors = suites.encode_suite(embedder, params, suite)
    results = evaluate_precisions(suite, vectors, embedder.encoder.arch.matryoshka_dims)
    log.info("%s: %s", folder.name, suites.describe_means(results))
    write_results(folder / "results.json", results)


def write_tables(work: storage.Path) -> str:
    """Write findings.md and findings.html; return the former's text."""
    findings = list(compare_findings(work))
    text = "\n\n".join([compare.format_overview(findings), *map(compare.format_markdown, findings)]) + "\n"
    (work / NAME / "findings.md").write_text(text)
    head = (
        '<header class="hero"><div><h1>Findings</h1><p class="lead">Experiments beside their parent. Differences are '
        "taken seed by seed; bars are 95 % intervals.</p></div></header><main>"
    )
    page.save(work / NAME / "findings.html", "findings", [head, comparison.sections(findings), "</main>"])
    return text


def main(config: ConfigDict, forks: str = "") -> None:
    work = storage.path(config.workdir)
    parent = "own_data" if config.pairs else "finetune"
    if config.pairs:
        discover.require_benchmarks(config.pairs)
    runs = plan_forks(config, select_forks(forks, parent), must_run=bool(forks))
    preprocessors = {name: prepare.preprocessor_for(run, config) for name, run in runs.items()}
    embedders = {name: Embedder(run.encoder, {}, preprocessors[name]) for name, run in runs.items()}
    prepared: dict[str, list[suites.PreparedBenchmark]] = {}  # by what the preprocessor makes of inputs

    def test_suite(embedder: Embedder) -> list[suites.PreparedBenchmark]:
        spec = json.dumps(embedder.preprocessor.input_spec(), sort_keys=True)
        if spec not in prepared:
            prepared[spec] = load_test_suite(embedder, config)
        return prepared[spec]

    dev: list[suites.PreparedBenchmark] = []
    for seed in SEEDS:
        for name, run in runs.items():
            folder = train_fork(config, name, run, seed)
            score_run(folder, embedders[name], test_suite(embedders[name]))
        if SECOND_MIXTURES[parent] in runs:
            embedder = embedders[parent]
            dev = dev or load_dev_suite(embedder, config)
            make_soups(work, parent, seed, dev, embedder)
            for name in name_soups(parent):
                if (folder := run_folder(work, name, seed)).exists():
                    score_run(folder, embedder, test_suite(embedder))
        if hosts.is_primary():
            write_tables(work)
    for name, run in runs.items():
        # Seeds that start from different random weights have no average.
        if run.init and (folder := average_seeds(work, name, trust=(run.encoder.arch.encoder,))):
            score_run(folder, embedders[name], test_suite(embedders[name]))
    if hosts.is_primary():
        print(write_tables(work))
        print(f"The page of findings: {storage.absolute(work / NAME / 'findings.html')}")


if __name__ == "__main__":
    run_script(main, forks="which forks to run, by comma, without the parent's name; empty: all")
