"""Native audio against a cascade of speech recognition and text embedding (report, Table 3): MRR@10, also in noise.

Hypothesis: native audio is better, and more so in noise: what is misheard is lost to the text behind it.
  run   python -m experiments.studies.cascade --config.pairs=FOLDER --config.checkpoint=runs/soup_greedy
Takes the datasets under FOLDER whose queries are English speech. Both ways start from the same checkpoint and are
trained for the same steps on the same pairs: one on the sounds, one on what the recogniser made of them. Three seeds.
"""

import concurrent.futures
import dataclasses
import importlib.util
import json
import logging
import multiprocessing
import sys
from collections.abc import Sequence

from ml_collections import ConfigDict
from tqdm import tqdm

from embed.data import discover
from embed.data.budget import Budget
from embed.data.modalities import Audio, Text
from embed.data.records import Record, content_hash, to_bytes
from embed.data.sources import open_split, read_records, write_shards
from embed.distributed import hosts, storage
from embed.embedder import Embedder
from embed.eval import compare
from embed.eval import suite as evaluate
from embed.eval.asr import transcribe, with_noise
from embed.eval.benchmarks import Benchmark
from embed.training import checkpoint, loop, optim
from embed.training.config_check import ConfigError, require_checkpoint
from embed.training.main import run
from embed.training.prepare import open_sources
from experiments import own_data

log = logging.getLogger(__name__)
NAME = "cascade"
SEEDS = (0, 1, 2)
STEPS = 300
WAYS = ("cascade", "native")
# Split -> how far the noise is below the speech, in decibels.
NOISE = {"test": None, "test_10dB": 10.0, "test_0dB": 0.0}
NOTHING = "(nothing was understood)"
MOST = Budget(224, clips=1, frames=192)  # of a row: 7.7 s of speech


def english_speech(record: Record) -> bool:
    """Whether the query is one sound, and its language English."""
    return len(record.query) == 1 and isinstance(record.query[0], Audio) and record.lang.split("-")[0] == "en"


def with_speech(root: str) -> list[storage.Path]:
    """The datasets under `root` with English speech for queries, as far as a sample tells.

    Raises ConfigError where there are none, and DatasetError for one that has no pairs to test.
    """
    chosen = []
    for folder in discover.require_datasets(root, "train"):
        if any(english_speech(record) for record in discover.sample(open_split(folder, "train"), discover.SAMPLE)):
            chosen.append(folder)
        else:
            log.info("%s has no English speech among its queries", folder.name)
    if not chosen:
        raise ConfigError(
            f"--config.pairs={root}: no dataset there has English speech for queries: one sound each, and a `lang` of "
            "en, or en-de where the target is German"
        )
    for folder in chosen:
        if not discover.has_split(folder, "test"):
            raise discover.DatasetError(
                f"{folder}: there is no test.jsonl; the cascade tests pairs in noise, and takes no corpus and queries"
            )
    return chosen


def recognize(folder: storage.Path, root: storage.Path) -> None:
    """Writes a dataset twice, as sounds and as what is heard in them, and its test split in noise too; once.

    Raises ConfigError where PocketSphinx is not installed.
    """
    manifest = root / WAYS[-1] / folder.name / "manifest.json"
    if manifest.exists():
        return
    if importlib.util.find_spec("pocketsphinx") is None:
        raise ConfigError("speech recognition needs PocketSphinx, of the extra [eval]: pip install -e '.[eval]'")
    with concurrent.futures.ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        for split, ratio in {"train": None, **NOISE}.items():
            records = [one for one in read_records(open_split(folder, split.partition("_")[0])) if english_speech(one)]
            sounds = [one.query[0].data for one in records]
            if ratio is not None:
                seeds = [int(content_hash(one.query)[0]) for one in records]
                sounds = [with_noise(sound, ratio, seed) for sound, seed in zip(sounds, seeds, strict=True)]
            found = pool.map(transcribe, sounds, chunksize=4)
            label, quiet = f"{folder.name} {split}", not sys.stderr.isatty()
            words = list(tqdm(found, label, len(sounds), disable=quiet))
            log.info("%s, %s: in %d of %d nothing was understood", folder.name, split, words.count(""), len(words))
            queries = {"native": map(Audio, sounds), "cascade": (Text(one or NOTHING) for one in words)}
            for way, parts in queries.items():
                changed = [dataclasses.replace(one, query=(part,)) for one, part in zip(records, parts, strict=True)]
                write_shards(root / way / folder.name, split, map(to_bytes, changed))
    manifest.write_text(json.dumps({"recognised": folder.name}))


def one_by_one(name: str, records: Sequence[Record]) -> Benchmark:
    """Every record a query, also where two are heard alike: as one query with two right answers they would count as
    understood. Candidates are the distinct positives and hard negatives."""
    corpus = list(dict.fromkeys(side for one in records for side in (one.positive, *one.negatives)))
    right = tuple({corpus.index(one.positive): 1} for one in records)
    return Benchmark(name, "audio", tuple(one.query for one in records), tuple(corpus), right)


def suite_of(embedder: Embedder, names: Sequence[str], root: storage.Path) -> list[evaluate.PreparedBenchmark]:
    """A benchmark a dataset and a noise, from speech to target; `root` says which way."""
    suite: list[evaluate.PreparedBenchmark] = []
    for name in names:
        for split in NOISE:
            records = list(read_records(open_split(root / name, split)))
            suite += evaluate.prepare_benchmark(embedder, one_by_one(f"{name}, {split}", records))
    return suite


def rows(names: Sequence[str], width: int) -> dict[str, list[compare.MetricKey]]:
    """A table's: every dataset at every noise, every noise, all."""

    def at(split: str, names: Sequence[str]) -> list[compare.MetricKey]:
        return [(f"{name}, {split}", width, "mrr@10") for name in names]

    each = {f"{name}, {split}": at(split, [name]) for name in names for split in NOISE}
    every = [place for places in each.values() for place in places]
    return each | {f"mean, {split}": at(split, names) for split in NOISE} | {"mean": every}


def compared(work: storage.Path) -> list[compare.Comparison]:
    """What there are results of, by the seeds that both ways have."""
    columns = compare.read_results(
        {way: [work / NAME / f"{way}_{seed}" / "results.json" for seed in SEEDS] for way in WAYS}
    )
    if not columns[WAYS[0]]:
        return []
    first = columns[WAYS[0]][0]
    names = list(dict.fromkeys(name.partition(",")[0] for name in first))
    table = rows(names, max(next(iter(first.values()))))
    return [compare.Comparison(*compare.parse_docstring(__doc__), columns, table, "MRR@10")]


def main(config: ConfigDict) -> None:
    path, root = require_checkpoint(config), storage.path(config.workdir) / NAME
    speech = with_speech(config.pairs)
    embedder = Embedder.load(path)
    with hosts.primary_first("speech recognition"):
        for folder in speech:
            recognize(folder, root)
    names = [folder.name for folder in speech]
    for way in WAYS:
        tasks = discover.make_tasks(root / way, embedder.preprocessor, MOST, own_data.BATCH, own_data.BOTH)
        suite = suite_of(embedder, names, root / way)
        for seed in SEEDS:
            plan = dataclasses.replace(
                own_data.plan(config, tasks),
                folder=root / f"{way}_{seed}",
                optimizer=optim.adamw(own_data.RATE, warmup=10, steps=STEPS),
                steps=config.steps or STEPS,
                seed=seed,
                init=path,
            )
            loop.fit(plan, embedder.preprocessor, open_sources(tasks, root / way))
            vectors = evaluate.encode_suite(embedder, checkpoint.load_sharded(plan.folder), suite)
            results = evaluate.evaluate(suite, vectors, embedder.encoder.arch.matryoshka_dims)
            if hosts.is_primary():
                (plan.folder / "results.json").write_text(json.dumps(results))
    if hosts.is_primary():
        print("\n\n".join(map(compare.format_markdown, compared(storage.path(config.workdir)))))


if __name__ == "__main__":
    run(main)
