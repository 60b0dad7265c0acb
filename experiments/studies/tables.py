"""Tables of findings: what runs of runs/findings are compared, and which rows show it."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from embed.distributed import storage
from embed.eval import compare
from embed.eval.baselines.evaluate import read_baselines
from embed.eval.benchmarks import LANGUAGE, Results, dataset_of, select_metric
from embed.eval.precision import QUANTIZERS
from embed.training.main import list_experiments, load_experiment
from experiments.studies import cascade, negatives, order
from experiments.studies.arms import SEEDS

NAME = "findings"
PARENTS = ("finetune", "own_data")
NO_PROMPT = ", no task string"
UNSEEN = ", not trained on"
SOUPS = ("soup_of_a_run", "soup_uniform", "soup_weighted", "soup_greedy")
# Experiment -> its fork with a second mixture, with which it makes soups.
SECOND_MIXTURES = {"finetune": "finetune__more_media", "own_data": "own_data__equal_weights"}
SOUP_CLAIM = "An average over runs is better than the run it starts from; over steps of a run, less so."
SEEDS_TITLE = "Model soup over seeds: runs of one experiment that differ only in the order of their data."
SEEDS_CLAIM = "The average of an experiment's runs is better than each of them."


def run_folder(work: storage.Path, name: str, seed: int | str) -> storage.Path:
    """Return the folder of an experiment's run with a seed; its soup over seeds has the seed "soup"."""
    return work / NAME / f"{name}_{seed}"


def name_soups(parent: str) -> list[str]:
    """Return the names of the soups of an experiment's two mixtures."""
    return [f"{parent}_{soup}" for soup in SOUPS]


def forks_of(parent: str) -> list[str]:
    """Return the names of an experiment's forks, and of their forks after them."""
    return [name for name in list_experiments() if name.startswith(f"{parent}__")]


def make_rows(results: Results) -> dict[str, list[compare.MetricKey]]:
    """Return the rows of a table: each dataset in both directions, and by language of its queries; graded pairs; texts
    without a prompt; datasets without training data; the mean nDCG@10 at other widths and precisions; the mean."""
    prompted = [name for name in select_metric(results, "ndcg@10") if NO_PROMPT not in name]
    bare = [name for name in results if NO_PROMPT in name]
    unseen = [name for name in prompted if UNSEEN in name]
    *narrow, width = sorted(next(iter(results.values())))

    def keys(names: Sequence[str], width: int = width, metric: str = "ndcg@10") -> list[compare.MetricKey]:
        return [(name, width, metric) for name in names]

    def quantized(dim: int, label: str) -> dict[str, list[compare.MetricKey]]:
        metrics = {bits: f"ndcg@10, {bits}" for bits in QUANTIZERS}
        return {
            f"{label} in {bits}": keys(prompted, dim, metric)
            for bits, metric in metrics.items()
            if all(metric in results[name][dim] for name in prompted)
        }

    rows = {
        **{
            dataset: keys([name for name in prompted if dataset_of(name) == dataset])
            for dataset in dict.fromkeys(map(dataset_of, prompted))
        },
        **{
            f"{name}, {metric.removeprefix(LANGUAGE)}": keys([name], metric=metric)
            for name in prompted
            for metric in results[name][width]
            if metric.startswith(LANGUAGE)
        },
        **{f"{name}, Spearman": keys([name], metric="spearman") for name in select_metric(results, "spearman")},
        **({"texts without task string": keys(bare)} if bare else {}),
        **({f"mean{UNSEEN}": keys(unseen)} if unseen else {}),
    }
    if prompted:
        for dim in narrow:
            rows[f"mean at {dim} dimensions"] = keys(prompted, dim)
            rows |= quantized(dim, f"mean at {dim} dimensions")
        rows |= quantized(width, "mean") | {"mean": keys(prompted)}
    return rows


def select_shared(columns: Mapping[str, Sequence[Results]]) -> Results:
    """Return the first results, reduced to the benchmarks, widths and metrics that every column has."""
    first, *others = (results for column in columns.values() for results in column)
    return {
        name: {
            width: {
                metric: value for metric, value in row.items() if all(metric in other[name][width] for other in others)
            }
            for width, row in by_width.items()
            if all(width in other[name] for other in others)
        }
        for name, by_width in first.items()
        if all(name in other for other in others)
    }


def compare_runs(
    title: str,
    claim: str,
    runs: Mapping[str, Sequence[storage.Path]],
    references: Mapping[str, Results],
    replicates: str = "seed",
) -> Iterator[compare.Comparison]:
    """Yield the comparison of some runs, the first column's being the baseline; nothing where none have results."""
    columns = compare.read_results({name: [run / "results.json" for run in folders] for name, folders in runs.items()})
    if not next(iter(columns.values())):
        return
    rows = make_rows(select_shared(columns))
    unseen = [row for row in rows if row.endswith(UNSEEN) and row != f"mean{UNSEEN}"]
    spreads = {f"spread{UNSEEN}": unseen} if len(unseen) > 1 else {}
    names = {name for keys in rows.values() for name, _, _ in keys}
    yield compare.Comparison(title, claim, columns, rows, "nDCG@10", spreads, replicates, relabel(references, names))


def relabel(references: Mapping[str, Results], names: Collection[str]) -> dict[str, Results]:
    """Return the references that were scored on a benchmark of `names`, with the marks of UNSEEN in their names."""
    relabeled = {
        model: {name: results[bare] for name in names if (bare := name.replace(UNSEEN, "")) in results}
        for model, results in references.items()
    }
    return {model: results for model, results in relabeled.items() if results}


def compare_findings(work: storage.Path) -> Iterator[compare.Comparison]:
    """Yield what can be compared by the results in `work`: each fork and its parent, the soups and their runs, over the
    seeds that all have; the soup over an experiment's seeds and its runs, over the experiments; the other studies.
    Baselines with results stand beside them."""

    def by_seed(*names: str) -> dict[str, list[storage.Path]]:
        return {name: [run_folder(work, name, seed) for seed in SEEDS] for name in names}

    references = read_baselines(work)
    for parent in PARENTS:
        forks = forks_of(parent)
        for name in forks:
            question, claim = compare.parse_docstring(load_experiment(name).__doc__)
            yield from compare_runs(question, claim, by_seed(name.rpartition("__")[0], name), references)
        mixtures = (parent, SECOND_MIXTURES[parent])
        yield from compare_runs("Model soup.", SOUP_CLAIM, by_seed(*mixtures, *name_soups(parent)), references)
        columns = {"soup": "soup", **{f"seed {seed}": seed for seed in SEEDS}}
        runs = {label: [run_folder(work, name, seed) for name in (parent, *forks)] for label, seed in columns.items()}
        yield from compare_runs(SEEDS_TITLE, SEEDS_CLAIM, runs, references, "experiment")
    for study in (cascade, negatives, order):
        yield from study.compare_arms(work)
