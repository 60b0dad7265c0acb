"""Native audio against a cascade of speech recognition and text embedding (report, Table 3): MRR@10, also in noise.

Hypothesis: native audio is better, and more so in noise: what the recognizer gets wrong is lost to text embedding.

    python -m experiments.studies.cascade --config.pairs=FOLDER --checkpoint=runs/soup_greedy

Takes the datasets under FOLDER whose queries are speech. Both arms start from the same checkpoint and train for the
same steps on the same pairs: one on the audio, one on Whisper's transcripts. Queries in several languages are scored
apart.
"""

import dataclasses
import importlib.util
import json
import logging
import sys
from collections.abc import Sequence

from ml_collections import ConfigDict
from tqdm import tqdm

from embed.data import discover
from embed.data.budget import Budget
from embed.data.modalities import Audio, Text
from embed.data.records import Record, content_hash, to_bytes
from embed.data.sources import open_split, read_records
from embed.data.writing import write_shards
from embed.distributed import hosts, storage
from embed.embedder import Embedder
from embed.eval import compare
from embed.eval import suite as suites
from embed.eval.baselines.retriever import Transcribe
from embed.eval.baselines.whisper import Whisper
from embed.eval.benchmarks import LANGUAGE, Benchmark, Results
from embed.eval.noise import with_noise
from embed.hf.packaged_models import WHISPER_BASE
from embed.hf.packages import fetch
from embed.training.config_check import ConfigError, require_checkpoint, trusted_classes
from embed.training.main import run_script
from experiments import own_data
from experiments.studies.arms import CHECKPOINT_FLAG, SEEDS, result_files, score_arm, train_arm

log = logging.getLogger(__name__)
NAME = "cascade"
STEPS = 300
SYSTEMS = ("cascade", "native")
NOISE = {"test": None, "test_10dB": 10.0, "test_0dB": 0.0}  # split -> signal-to-noise ratio in decibels; None: no noise
EMPTY_TRANSCRIPT = "(nothing was understood)"
MAX_BUDGET = Budget(224, clips=1, frames=192)  # of a row: 7.7 s of speech


def is_speech(record: Record) -> bool:
    """Whether the query is a single audio clip, of a language ("zxx" is none, such as a sound effect)."""
    return len(record.query) == 1 and isinstance(record.query[0], Audio) and record.lang.split("-")[0] != "zxx"


def find_speech_datasets(root: str) -> list[storage.Path]:
    """Return the datasets under `root` whose queries include speech, judged by a sample.

    Raises ConfigError where there are none, and DatasetError for one without test pairs.
    """
    speech = []
    for folder in discover.require_datasets(root, "train"):
        if any(map(is_speech, discover.sample_records(open_split(folder, "train"), discover.BUDGET_SAMPLE))):
            speech.append(folder)
        else:
            log.info("%s has no speech among its queries", folder.name)
    if not speech:
        raise ConfigError(f"--config.pairs={root}: no dataset there has speech as queries: one audio clip each")
    for folder in speech:
        if not discover.has_split(folder, "test"):
            raise discover.DatasetError(f"{folder}: the cascade needs pairs to test: add test.jsonl")
    return speech


def load_recognizer() -> Transcribe:
    """Load Whisper base, whose weights are fetched once. Raises ConfigError where faster-whisper is not installed."""
    if importlib.util.find_spec("faster_whisper") is None:
        raise ConfigError("speech recognition needs the extra [baselines]: pip install -e '.[baselines]'")
    return Whisper(fetch(WHISPER_BASE))


def build_asr_dataset(folder: storage.Path, root: storage.Path, transcribe: Transcribe) -> None:
    """Write ROOT/native/NAME with a dataset's audio and ROOT/cascade/NAME with its transcripts, test splits in noise
    too. Does nothing where they exist."""
    manifest = root / SYSTEMS[-1] / folder.name / "manifest.json"
    if manifest.exists():
        return
    for split, ratio in {"train": None, **NOISE}.items():
        source = open_split(folder, split.partition("_")[0])
        records = [record for record in read_records(source) if is_speech(record)]
        clips = [record.query[0].data for record in records]
        if ratio is not None:
            seeds = [int(content_hash(record.query)[0]) for record in records]
            clips = [with_noise(clip, ratio, seed) for clip, seed in zip(clips, seeds, strict=True)]
        progress = tqdm(clips, f"{folder.name} {split}", unit="clip", disable=not sys.stderr.isatty())
        texts = [transcribe(clip) for clip in progress]
        log.info("%s, %s: %d of %d transcripts are empty", folder.name, split, texts.count(""), len(texts))
        queries = {
            "native": [Audio(clip) for clip in clips],
            "cascade": [Text(text or EMPTY_TRANSCRIPT) for text in texts],
        }
        for system, parts in queries.items():
            changed = [dataclasses.replace(record, query=(part,)) for record, part in zip(records, parts, strict=True)]
            write_shards(root / system / folder.name, split, map(to_bytes, changed))
    manifest.write_text(json.dumps({"recognized": folder.name}))


def make_benchmark(name: str, records: Sequence[Record]) -> Benchmark:
    """Make a benchmark with a query for every record, also where two transcripts are equal: merged into one query with
    two right answers they would count as understood. The corpus is the distinct positives and hard negatives."""
    corpus = list(dict.fromkeys(content for record in records for content in (record.positive, *record.negatives)))
    relevance = tuple({corpus.index(record.positive): 1} for record in records)
    queries = tuple(record.query for record in records)
    return Benchmark(
        name, "audio", queries, tuple(corpus), relevance, languages=tuple(record.lang for record in records)
    )


def load_suite(embedder: Embedder, names: Sequence[str], root: storage.Path) -> list[suites.PreparedBenchmark]:
    """Load one benchmark per dataset and noise level, from query to target, of the system whose data is in `root`."""
    suite: list[suites.PreparedBenchmark] = []
    for name in names:
        for split in NOISE:
            records = list(read_records(open_split(root / name, split)))
            suite += suites.prepare_benchmark(embedder, make_benchmark(f"{name}, {split}", records))
    return suite


def make_rows(results: Results, names: Sequence[str]) -> dict[str, list[compare.MetricKey]]:
    """Return a table's rows: every dataset at every noise level, by language (of nDCG@10), every noise level, all."""
    width = max(next(iter(results.values())))

    def keys(split: str, names: Sequence[str]) -> list[compare.MetricKey]:
        return [(f"{name}, {split}", width, "mrr@10") for name in names]

    by_dataset = {f"{name}, {split}": keys(split, [name]) for name in names for split in NOISE}
    by_language = {
        f"{name}, {metric}": [(name, width, metric)]
        for name in by_dataset
        for metric in results[name][width]
        if metric.startswith(LANGUAGE)
    }
    every = [key for row in by_dataset.values() for key in row]
    means = {f"mean, {split}": keys(split, names) for split in NOISE}
    return by_dataset | by_language | means | {"mean": every}


def compare_arms(work: storage.Path) -> list[compare.Comparison]:
    """Compare both systems over the seeds for which both have results."""
    columns = compare.read_results(result_files(work / NAME, SYSTEMS))
    if not columns[SYSTEMS[0]]:
        return []
    first = columns[SYSTEMS[0]][0]
    names = list(dict.fromkeys(name.partition(",")[0] for name in first))
    rows = make_rows(first, names)
    return [compare.Comparison(*compare.parse_docstring(__doc__), columns, rows, "MRR@10")]


def main(config: ConfigDict, checkpoint: str = "") -> None:
    start, root = require_checkpoint(checkpoint, config.workdir), storage.path(config.workdir) / NAME
    speech = find_speech_datasets(config.pairs)
    embedder = Embedder.load(start, trust=trusted_classes(config))
    transcribe = load_recognizer()
    with hosts.primary_first("speech recognition"):
        for folder in speech:
            build_asr_dataset(folder, root, transcribe)
    names = [folder.name for folder in speech]
    for system in SYSTEMS:
        data = root / system
        tasks = discover.make_tasks(data, embedder.preprocessor, MAX_BUDGET, own_data.BATCH, own_data.SYMMETRIC)
        suite = load_suite(embedder, names, data)
        for seed in SEEDS:
            folder = root / f"{system}_{seed}"
            train_arm(config, embedder, tasks, data, folder, start=start, steps=STEPS, seed=seed)
            score_arm(embedder, folder, suite)
    if hosts.is_primary():
        print("\n\n".join(map(compare.format_markdown, compare_arms(storage.path(config.workdir)))))


if __name__ == "__main__":
    run_script(main, checkpoint=CHECKPOINT_FLAG)
