"""The whole recipe in one command: pre-fine-tune, fine-tune on two mixtures, soup, evaluate, and a page of results.

    python -m experiments.recipe --config=configs/cpu.py
    python -m experiments.recipe --config=configs/cpu.py --config.pairs=FOLDER     # fine-tunes on your datasets too

Writes runs/report.html after every stage. The same command continues after an interruption, from the last checkpoint.
"""

import json
import logging
import time
from collections.abc import Sequence
from types import ModuleType

import jax
from ml_collections import ConfigDict

from embed.data.discover import require_datasets
from embed.distributed import hosts, storage
from embed.embedder import Embedder
from embed.eval import suite as suites
from embed.eval.baselines.evaluate import read_baselines
from embed.eval.benchmarks import Results
from embed.eval.compare import load_results
from embed.report.workdir import write_page
from embed.training import checkpoint
from embed.training.config_check import trusted_classes
from embed.training.main import load_run, run_script, train
from embed.training.metadata import code_version
from experiments import finetune, own_data, prefinetune, soup
from experiments.ablations import finetune__more_media, own_data__after_recipe
from experiments.studies.tables import compare_findings

log = logging.getLogger(__name__)
SOUPS = ("soup_uniform", "soup_weighted", "soup_greedy")
# Stage -> the checkpoints it makes.
STAGES: dict[ModuleType, tuple[str, ...]] = {
    prefinetune: ("prefinetune",),
    finetune: ("finetune",),
    finetune__more_media: ("finetune__more_media",),
    soup: SOUPS,
}
FINAL = "soup_greedy"


def main(config: ConfigDict) -> None:
    work = storage.path(config.workdir)
    if config.pairs:
        require_datasets(config.pairs, "train")
        suites.check_names(config.pairs)
    page = ResultsPage(config, work / "report.html")
    # Without a foundation model, own_data.py itself starts from the recipe's soup.
    own_stage = own_data__after_recipe if config.pretrained else own_data
    stages = [*STAGES, *([own_stage] if config.pairs else [])]
    for number, stage in enumerate(stages, start=1):
        # A stage continues from its own last checkpoint; a finished one does nothing.
        log.info("stage %d of %d: %s", number, len(stages), name_of(stage))
        run_stage(stage, config)
        if stage in STAGES:
            page.add(STAGES[stage])
    if hosts.is_primary():
        (work / "results.json").write_text(json.dumps(page.columns, indent=1))
        print(suites.format_table(page.columns))
        print(f"\nThe page of results: {storage.absolute(page.path)}")
    if config.pairs:
        page = ResultsPage(config, work / "report_pairs.html", config.pairs)
        page.add(("prefinetune", FINAL, name_of(own_stage)))
        if hosts.is_primary():
            (work / "results_pairs.json").write_text(json.dumps(page.columns, indent=1))
            print(f"\n{suites.format_table(page.columns)}")
            print(f"\nThe page of your datasets: {storage.absolute(page.path)}")


def name_of(stage: ModuleType) -> str:
    """Return a stage's name, which is that of its run's folder."""
    return stage.__name__.rpartition(".")[2]


def run_stage(stage: ModuleType, config: ConfigDict) -> None:
    """Train a stage, or make the soups."""
    if stage is soup:
        return soup.main(config)
    train(load_run(stage.plan, config), config)


class ResultsPage:
    """A page of test results that grows with every stage: of the suite, or of the datasets under `pairs`."""

    def __init__(self, config: ConfigDict, path: storage.Path, pairs: str = ""):
        self.config, self.path, self.pairs = config, path, pairs
        self.work = storage.path(config.workdir)
        self.started = time.monotonic()
        self.columns: dict[str, Results] = {}
        self.suite: list[suites.PreparedBenchmark] = []

    def add(self, names: Sequence[str]) -> None:
        """Evaluate checkpoints and write the page anew. All hosts call this, and the first one writes."""
        embedder = Embedder.load(self.work / names[-1], trusted_classes(self.config), self.config.dtype)
        if not self.suite:
            data = storage.path(self.config.data)
            self.suite = (
                suites.load_datasets(embedder, self.pairs, "test")
                if self.pairs
                else suites.load_suite(embedder, data, "test")
            )
        vectors: suites.Vectors = []
        for name in names:
            folder = self.work / name
            vectors = suites.encode_suite(embedder, embedder.load_params(folder), self.suite)
            results = suites.evaluate(self.suite, vectors, embedder.encoder.arch.matryoshka_dims)
            self.columns[name] = results
            log.info("evaluated %s: %s", name, suites.describe_means(results))
            if hosts.is_primary() and not self.pairs:
                (folder / "results.json").write_text(json.dumps(results, indent=1))
        self.write(embedder, vectors, names[-1])

    def write(self, embedder: Embedder, vectors: suites.Vectors, shown: str) -> None:
        """Write the page with the checkpoint `shown`, whose vectors these are, in detail. All hosts call this."""
        write_page(
            self.path,
            self.work,
            self.columns | self.read_others(),
            [benchmark for benchmark, *_ in self.suite],
            vectors,
            shown,
            self.facts(embedder, shown),
            descriptions={name: dataset.description for name, dataset in suites.SUITE.items()},
            comparisons=[] if self.pairs else list(compare_findings(self.work)),
            baselines=read_baselines(self.work),
        )
        log.info("wrote %s", storage.absolute(self.path))

    def facts(self, embedder: Embedder, shown: str) -> dict[str, str]:
        """Return the page's facts, by label."""
        return {
            "parameters": f"{sum(leaf.size for leaf in jax.tree.leaves(embedder.params)):,}",
            "code": code_version(),
            **({"datasets": self.pairs} if self.pairs else {}),
            "shown in detail": shown,
            "its scores": suites.describe_means(self.columns[shown]),
            "minutes of this call": f"{(time.monotonic() - self.started) / 60:.1f}",
        }

    def read_others(self) -> dict[str, Results]:
        """Read the results of other runs in the workdir, such as a fork after `python -m embed evaluate`."""
        if self.pairs:
            return {}
        stages = [name for names in STAGES.values() for name in names]
        files = [file for file in sorted(self.work.glob("*/results.json")) if file.parent.name not in stages]
        return {file.parent.name: load_results(file) for file in files if checkpoint.saved_steps(file.parent)}


if __name__ == "__main__":
    run_script(main)
