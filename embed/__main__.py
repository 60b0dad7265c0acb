"""The command line: `python -m embed COMMAND --help`. What a command does lives with its subject."""

import argparse
import asyncio
import contextlib
import importlib.util
import logging
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

import jax

from embed import hf, toy_corpora
from embed.data import prompts
from embed.data.build.build import Options, build
from embed.distributed import hosts, storage
from embed.distributed.mesh import make_mesh
from embed.distributed.storage import one_line
from embed.embedder import Embedder
from embed.eval import compare, published, suite
from embed.eval.evaluate import evaluate_checkpoints, run_mteb
from embed.report import audit
from embed.retrieval.folder_index import index_folder, printable, search_index
from embed.retrieval.hard_negatives import MiningRule
from embed.retrieval.mined_datasets import DEFAULT_RULE, Prompts, mine_datasets
from embed.synthesis import datasets, llm, offline
from embed.toy_corpora.seeds import read_seeds
from embed.training import checkpoint, startup
from embed.training.config_check import ConfigError, require_checkpoint
from embed.training.errors import USER_ERROR_STATUS, USER_ERRORS
from embed.training.migrate import migrate
from embed.training.published import export_checkpoint, import_checkpoint
from embed.training.weights import hash_params

CHECKPOINT = "a run or soup, or one checkpoints/STEP of it; or a published model's folder, or owner/model@COMMIT"
TRUST = "encoder classes outside embed that the checkpoint may name, as module:Class; they are imported"
AUDITED = 8  # records of each dataset on the page of mined negatives


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR_STATUS, f"error: {message}; see {self.prog} --help\n")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m embed", description="Use, evaluate and convert encoders, and build their data.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, purpose: str, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        description = f"{purpose[0].upper()}{purpose[1:]}."
        command = commands.add_parser(name, help=purpose, description=description, formatter_class=Formatter)
        command.set_defaults(run=run)
        return command

    command = add("index", "embed every file of a folder tree, to search it", run_index)
    command.add_argument("checkpoint", type=storage.path, help=CHECKPOINT)
    command.add_argument(
        "folder",
        type=pathlib.Path,
        help="images, audio, video, PDFs, text and source code; skips links out of it and names that begin with a dot",
    )
    command.add_argument("--out", type=pathlib.Path, metavar="FILE.npz", help="the index (FOLDER's name .npz)")
    command.add_argument("--dim", type=int, help="dimensions of the vectors, fewer than the encoder's own")
    add_trust(command)

    command = add("search", "find the files of an index nearest to a query", run_search)
    command.add_argument("index", type=pathlib.Path, help="what `index` wrote")
    command.add_argument("query", nargs="+", help="text or a file; several are one interleaved input, in order")
    command.add_argument("--k", type=at_least_one, default=10, help="number of files")
    command.add_argument("--task", choices=prompts.QUERY_TASKS, default=prompts.QUERY_TASKS[0], help="a text's prompt")
    add_trust(command)

    command = add("evaluate", "score checkpoints on held-out items, side by side", run_evaluate)
    command.add_argument("checkpoints", nargs="+", metavar="checkpoint", help=CHECKPOINT)
    command.add_argument("--data", default="runs/data", help="folder of the built-in corpora")
    command.add_argument("--pairs", default="", metavar="FOLDER", help="your own datasets, scored too")
    command.add_argument(
        "--mteb", default="", metavar="TASKS", help="score tasks of mteb, by comma, or a benchmark of it"
    )
    command.add_argument("--dim", type=int, help="dimensions of the vectors for --mteb (all)")
    add_trust(command)
    add_workdir(command)

    command = add("published", "score a checkpoint on the Gemini Embedding 2 report's benchmarks", run_published)
    command.add_argument("checkpoint", help=CHECKPOINT)
    command.add_argument(
        "folder", type=storage.path, help="the benchmarks' data; missing ones are listed with a source"
    )
    command.add_argument(
        "--like", nargs="+", default=[], metavar="FOLDER:NAME", help="score FOLDER by the protocol of benchmark NAME"
    )
    add_trust(command)
    add_workdir(command)

    command = add("mine", "find hard negatives for your own datasets", run_mine)
    command.add_argument("checkpoint", help=CHECKPOINT)
    command.add_argument("folder", help="your datasets; a `corpus` split's items are candidates too")
    command.add_argument("--out", type=storage.path, help="the datasets with negatives, and audit.html (WORKDIR/mined)")
    command.add_argument("--second", metavar="CHECKPOINT", help="fuse the ranking with this one's")
    command.add_argument("--count", type=at_least_one, default=DEFAULT_RULE.count, help="negatives per query at most")
    command.add_argument("--depth", type=at_least_one, default=DEFAULT_RULE.depth, help="candidates per query")
    command.add_argument(
        "--positive-ratio",
        type=float,
        default=DEFAULT_RULE.positive_ratio,
        help="skip candidates above this part of the positive's score",
    )
    command.add_argument("--query-prompt", choices=prompts.QUERY_TASKS, help="prompt of queries that are text")
    command.add_argument(
        "--document-prompt", action="store_true", help="give candidates that are text the document prompt"
    )
    add_trust(command)
    add_workdir(command)

    command = add("synthesize", "let a language model write training pairs about real contents", run_synthesize)
    command.add_argument("--out", type=storage.path, help="the datasets, and replies.jsonl (WORKDIR/synthetic)")
    command.add_argument("--data", type=storage.path, default="runs/data", help="folder of the built-in corpora")
    command.add_argument(
        "--endpoint",
        default="",
        metavar="URL",
        help="an OpenAI-compatible server; key in $OPENAI_API_KEY (a local placeholder that answers by grammar)",
    )
    command.add_argument("--model", default=offline.MODEL, help="the server's name of the model")
    command.add_argument(
        "--prices", type=float, nargs=2, default=(0.0, 0.0), metavar=("IN", "OUT"), help="dollars per million tokens"
    )
    command.add_argument("--parallel", type=at_least_one, default=16, help="questions at a time")
    command.add_argument("--seeds", type=at_least_one, default=400, help="contents of each kind to write about")
    command.add_argument("--keep", type=at_least_one, default=250, help="records of each kind at most")
    add_workdir(command)

    command = add("build", "check, deduplicate and shard a source into a dataset", run_build)
    command.add_argument(
        "spec", type=pathlib.Path, help="a folder of pairs, of a benchmark or of BEIR, or a Python file"
    )
    command.add_argument("out", type=pathlib.Path, help="the dataset's folder")
    command.add_argument(
        "--near", type=similarity, help="leave out near duplicates of this similarity, 0.5 to 1; 0.9 is cautious"
    )
    command.add_argument(
        "--against",
        type=pathlib.Path,
        nargs="+",
        default=[],
        metavar="SPEC",
        help="evaluation data: leave out its queries",
    )
    command.add_argument("--workers", type=at_least_one, default=os.cpu_count() or 1, help="processes that read")

    command = add(
        "import", "turn a published model into a checkpoint: to train, average, evaluate, embed with", run_import
    )
    command.add_argument("folder", help="config.json, safetensors, tokenizer.json; or owner/model@COMMIT")
    command.add_argument("out", help="the checkpoint's folder")
    command.add_argument(
        "--attention",
        choices=("bidirectional", "causal"),
        help="direction; as embed exported it if not given, else bidirectional: a causal model becomes an encoder",
    )

    command = add("export", "write a checkpoint for transformers and sentence-transformers", run_export)
    command.add_argument("checkpoint", help=CHECKPOINT)
    command.add_argument("folder", help="a new or empty folder")
    command.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="bfloat16 halves the size")

    command = add("migrate", "rewrite a checkpoint of an earlier version", run_migrate)
    command.add_argument("old", type=storage.path, help="the earlier run or soup")
    command.add_argument("new", type=storage.path, help="the folder of the new one")
    return parser.parse_args(argv)


class Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where there is one to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default not in (None, "", [], False) else action.help


def add_trust(command: argparse.ArgumentParser) -> None:
    command.add_argument("--trust", nargs="+", default=[], metavar="MODULE:CLASS", help=TRUST)


def add_workdir(command: argparse.ArgumentParser) -> None:
    command.add_argument("--workdir", default="runs", help="folder of runs; compiled programs are kept there")


def at_least_one(word: str) -> int:
    if (value := int(word)) < 1:
        raise argparse.ArgumentTypeError(f"{word}: give an integer of at least 1")
    return value


def similarity(word: str) -> float:
    """Parse a number from 0.5 to 1: below, the bands of near-duplicate search miss too many."""
    if not 0.5 <= (value := float(word)) <= 1:
        raise argparse.ArgumentTypeError(f"{word}: give a number from 0.5 to 1")
    return value


@contextlib.contextmanager
def all_devices(workdir: str) -> Iterator[None]:
    """Join the pod, if there is one, and set a mesh of all devices."""
    startup.set_up_logging()
    startup.set_up_jax(workdir)
    with jax.set_mesh(make_mesh((1, -1, 1))):
        yield


def run_index(args: argparse.Namespace) -> None:
    out = args.out or pathlib.Path(f"{args.folder.resolve().name or 'index'}.npz")
    embedded, skipped = index_folder(args.checkpoint, args.folder, out, args.dim, args.trust)
    print(f"{embedded} files embedded, {skipped} skipped: {printable(str(out))}")


def run_search(args: argparse.Namespace) -> None:
    for rank, (score, name) in enumerate(search_index(args.index, args.query, args.k, args.task, args.trust), 1):
        print(f"{rank:3}  {score:7.4f}  {printable(name)}")


def run_evaluate(args: argparse.Namespace) -> None:
    paths = [require_checkpoint(path, args.workdir) for path in args.checkpoints]
    with all_devices(args.workdir):
        if args.mteb:
            for path in paths:
                print(run_mteb(path, args.mteb, args.dim, storage.path(args.workdir) / "mteb", trust=args.trust))
            return
        columns = evaluate_checkpoints(paths, storage.path(args.data), args.pairs, trust=args.trust)
        if hosts.is_primary():
            print(suite.format_table(columns))
            print(f"\n{compare.format_comparison(columns)}")


def run_published(args: argparse.Namespace) -> None:
    path = require_checkpoint(args.checkpoint, args.workdir)
    benchmarks = published.select_benchmarks(args.like)
    if not args.folder.is_dir():
        raise ConfigError(f"no folder {args.folder}")
    with all_devices(args.workdir):
        out = checkpoint.locate(path)[0] / "published.json"
        embedder = Embedder.load(path, trust=args.trust)
        table = published.score_report_benchmarks(embedder, args.folder, benchmarks, out)
        if hosts.is_primary():
            print(table)


def run_mine(args: argparse.Namespace) -> None:
    path = require_checkpoint(args.checkpoint, args.workdir)
    out = args.out or storage.path(args.workdir) / "mined"
    rule = MiningRule(args.count, args.depth, args.positive_ratio)
    with all_devices(args.workdir):
        embedders = [Embedder.load(checkpoint, trust=args.trust) for checkpoint in (path, args.second) if checkpoint]
        provenance = f"{storage.absolute(path)} {hash_params(embedders[0].params)}"
        prompted = Prompts(args.query_prompt, "document" if args.document_prompt else None)
        mined = mine_datasets(embedders, args.folder, out, provenance, rule, prompted)
        if hosts.is_primary():
            facts = {
                "by": args.checkpoint,
                "share of the positive's score": f"{rule.positive_ratio}",
                "depth": f"{rule.depth}",
            }
            audit.write(out / "audit.html", facts, mined, AUDITED)
            print(f"Datasets with mined negatives, and a page to look at: {storage.absolute(out / 'audit.html')}")


def run_synthesize(args: argparse.Namespace) -> None:
    if importlib.util.find_spec("openai") is None:
        raise ConfigError("asking a model needs openai, of the extra [synthesis]: pip install -e '.[synthesis]'")
    startup.set_up_logging()
    out = args.out or storage.path(args.workdir) / "synthetic"
    toy_corpora.build(storage.path(args.data))
    with contextlib.ExitStack() as stack:
        url = args.endpoint or stack.enter_context(offline.serve()) + "/v1"
        path = pathlib.Path(storage.absolute(out)) / "replies.jsonl"
        replies = llm.ReplyCache(path, llm.connect_openai(url, args.model), args.model)
        amounts = {"num_seeds": args.seeds, "max_records": args.keep, "max_concurrent": args.parallel}
        asyncio.run(datasets.write_datasets(replies, read_seeds(storage.path(args.data)), out, **amounts))
    print(datasets.format_cost(replies, args.prices))


def run_build(args: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    manifest = build(args.spec, args.out, Options(args.near, tuple(args.against)), args.workers)
    for name, split in manifest["splits"].items():
        left_out = {why: n for why, n in split.items() if isinstance(n, int) and n and why not in ("read", "records")}
        left_out |= {"quarantined": n} if (n := sum(split["quarantined"].values())) else {}
        counts = "".join(f", {n:,} {why}" for why, n in left_out.items())
        print(f"{name}: {split['records']:,} of {split['read']:,} records in {len(split['shards'])} shards{counts}")


def run_import(args: argparse.Namespace) -> None:
    log_conversion()
    import_checkpoint(hf.resolve(args.folder), args.out, args.attention)


def run_export(args: argparse.Namespace) -> None:
    log_conversion()
    export_checkpoint(args.checkpoint, args.folder, args.dtype)


def run_migrate(args: argparse.Namespace) -> None:
    log_conversion()
    migrate(args.old, args.new)


def log_conversion() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("embed").setLevel(logging.INFO)  # which parameters were dropped, which are new


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status: USER_ERROR_STATUS, after one line, for a user's error."""
    args = parse_args(argv)
    try:
        args.run(args)
    except (ValueError, OSError, *USER_ERRORS) as error:
        print(f"error: {one_line(error)}".encode(errors="backslashreplace").decode(), file=sys.stderr)
        return USER_ERROR_STATUS
    return 0


if __name__ == "__main__":
    sys.exit(main())
