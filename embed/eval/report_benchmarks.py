"""The benchmarks of the Gemini Embedding 2 report (arXiv 2605.27295, Tables 1, 3 and 4): metric, scores, data source.

Where the report does not name a split, the commonly used one is given. Each benchmark is a folder of records: pairs in
test.jsonl, or corpus.jsonl, queries.jsonl and qrels.tsv (docs/data.md). mteb has ViDoRe V2 and the texts of Table 2:
`python -m embed evaluate --mteb`.
"""

import dataclasses

from embed.data.discover import has_benchmark, has_split
from embed.data.sources import open_split, read_records
from embed.distributed import storage
from embed.eval.benchmarks import Benchmark, from_folder, from_pairs

KS = (1, 5, 10, 20)  # cutoffs of rankings
FORWARD, REVERSE = "query→target", "target→query"


@dataclasses.dataclass(frozen=True)
class ReportBenchmark:
    """One benchmark: its folder, contents and main metric."""

    name: str
    folder: str  # in the root of all benchmarks
    contents: str  # queries and positives, for whoever prepares the data
    metric: str  # a key of `metrics.evaluate_ranking`
    report: dict[str, float | None]  # direction -> the report's score in percent; None where it has none
    source: str = ""
    split: str = ""

    def missing(self, root: storage.Path) -> str:
        """Say where to get the data and how to write it."""
        return (
            f"{self.name}: nothing in {root / self.folder}. Get {self.split} from {self.source}, and write it there as "
            f"pairs (test.jsonl) or as corpus, queries and qrels: {self.contents}"
        )


def _captions(name: str, folder: str, forward: float, reverse: float, source: str, split: str) -> ReportBenchmark:
    scores: dict[str, float | None] = {FORWARD: forward, REVERSE: reverse}
    return ReportBenchmark(name, folder, "query: a caption; positive: its image", "hit@1", scores, source, split)


def _videos(name: str, folder: str, score: float, source: str, split: str) -> ReportBenchmark:
    return ReportBenchmark(
        name, folder, "query: a caption; positive: its video", "ndcg@10", {FORWARD: score}, source, split
    )


def _special(name: str, folder: str, score: float, source: str, text: str) -> ReportBenchmark:
    contents = f"query: an image; positive: its {text}"
    return ReportBenchmark(name, folder, contents, "hit@5", {FORWARD: score}, source, "its test images")


KARPATHY = "https://cs.stanford.edu/people/karpathy/deepimagesent"
SVQ = "https://huggingface.co/datasets/google/svq"
TABLES = (
    _captions("MSCOCO", "mscoco", 62.9, 78.8, KARPATHY, "the 5,000 test images with their five captions"),
    _captions("Flickr30k", "flickr30k", 89.1, 97.4, KARPATHY, "the 1,000 test images with their five captions"),
    _captions("DOCCI", "docci", 93.4, 91.3, "https://google.github.io/docci", "the 5,000 test images"),
    _captions("TextCaps", "textcaps", 89.6, 97.4, "https://textvqa.org/textcaps", "the validation images and captions"),
    _videos("Vatex", "vatex", 68.8, "https://eric-xw.github.io/vatex-website", "the test clips, English captions"),
    _videos(
        "MSR-VTT", "msrvtt", 68.0, "https://github.com/albanie/collaborative-experts", "the 1,000 clips of split 1k-A"
    ),
    _videos("YouCook2", "youcook2", 52.5, "http://youcook2.eecs.umich.edu", "the validation clips and their sentences"),
    ReportBenchmark(
        "EncyclopedicVQA",
        "encyclopedic_vqa",
        "query: an image, then a question; positive: the section that answers it",
        "hit@20",
        {FORWARD: 71.5},
        "https://github.com/google-research/google-research/tree/master/encyclopedic_vqa",
        "the test questions",
    ),
    ReportBenchmark(
        "ViDoRe V2",
        "vidore_v2",
        "query: a question; relevant: pages that answer it, by grade",
        "ndcg@10",
        {FORWARD: 64.9},
        "https://huggingface.co/collections/vidore/vidore-benchmark-v2",
        "its four datasets (or score them with --mteb)",
    ),
    ReportBenchmark(
        "SVQ in-language",
        "svq_inlang",
        "query: a spoken question; positive: the passage in its language",
        "mrr@10",
        {FORWARD: 75.58},
        SVQ,
        "the questions with their passages, in 17 locales",
    ),
    ReportBenchmark(
        "SVQ cross-language",
        "svq_cross",
        "query: a spoken question; positive: the English passage",
        "mrr@10",
        {FORWARD: 72.56},
        SVQ,
        "the questions with their English passages, in 19 locales",
    ),
    _special("MicroVQA", "microvqa", 79.3, "https://huggingface.co/datasets/jmhb/microvqa", "answer"),
    _special("ArtCap", "artcap", 67.7, "https://doi.org/10.1109/tcss.2022.3223539", "description"),
    _special(
        "AstroLLaVA", "astrollava", 64.4, "https://huggingface.co/datasets/UniverseTBD/AstroLLaVA_convos", "caption"
    ),
    _special("Recipe1M ingredients", "recipe1m_ingredients", 90.2, "http://im2recipe.csail.mit.edu", "ingredients"),
    _special("Recipe1M instructions", "recipe1m_instructions", 92.1, "http://im2recipe.csail.mit.edu", "instructions"),
)


def under_protocol(name: str, folder: str) -> ReportBenchmark:
    """Make a benchmark of another folder by the protocol of one in the report. Raises KeyError for an unknown one."""
    table = {benchmark.name: benchmark for benchmark in TABLES}[name]
    return dataclasses.replace(table, name=f"{folder}, as {name}", folder=folder, report=dict.fromkeys(table.report))


def load(benchmark: ReportBenchmark, root: storage.Path) -> list[Benchmark]:
    """Load the directions that the report scores; none without data.

    Raises RecordError and DatasetError for data that cannot be used.
    """
    folder = root / benchmark.folder
    if has_benchmark(folder):
        return [from_folder(folder, name=f"{benchmark.name}: {FORWARD}")]
    if not has_split(folder, "test"):
        return []
    directions = from_pairs(benchmark.name, read_records(open_split(folder, "test")))
    return [
        direction for direction in directions if direction.name.removeprefix(f"{benchmark.name}: ") in benchmark.report
    ]
