"""What each command of `python -m embed` does with its arguments; the work itself lives with its subject."""

import argparse
import asyncio
import contextlib
import importlib.util
import logging
import pathlib
import sys
from collections.abc import Iterator

import jax

from embed import toy_corpora
from embed.data.build.build import Options, build
from embed.distributed import hosts, storage
from embed.distributed.mesh import make_mesh
from embed.embedder import Embedder
from embed.eval import compare, precision, published, suite
from embed.eval.baselines.evaluate import describe_limits, evaluate_baselines, load_baseline
from embed.eval.evaluate import evaluate_checkpoints, run_mteb
from embed.hf.packaged_models import FOUNDATIONS
from embed.report import audit
from embed.retrieval.folder_index import index_folder, printable, search_index
from embed.retrieval.hard_negatives import MiningRule
from embed.retrieval.mined_datasets import Prompts, mine_datasets
from embed.synthesis import datasets, llm, offline
from embed.toy_corpora.seeds import read_seeds
from embed.training import checkpoint, startup
from embed.training.config_check import ConfigError, require_checkpoint
from embed.training.foundation import import_foundation
from embed.training.migrate import migrate
from embed.training.published import export_checkpoint, import_checkpoint
from embed.training.weights import hash_params

AUDITED = 8  # records of each dataset on the page of mined negatives


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
    if not args.checkpoints and not args.baselines:
        raise ConfigError("nothing to evaluate: give a checkpoint, or --baselines")
    if args.mteb and args.baselines:
        raise ConfigError("--mteb scores checkpoints alone: leave out --baselines")
    work = storage.path(args.workdir)
    paths = [require_checkpoint(path, args.workdir) for path in args.checkpoints]
    with all_devices(args.workdir):
        if args.mteb:
            for path in paths:
                print(run_mteb(path, args.mteb, args.dim, work / "mteb", trust=args.trust))
            return
        baselines = [load_baseline(name) for name in args.baselines]
        test_sets = suite.read_test_sets(storage.path(args.data) if args.data else None, args.pairs)
        checkpoints = evaluate_checkpoints(paths, test_sets, trust=args.trust)
        columns = checkpoints | evaluate_baselines(baselines, test_sets, work)
        if hosts.is_primary():
            print(suite.format_table(columns))
            if baselines:
                print(f"\n{describe_limits(baselines)}")
            print(f"\n{compare.format_comparison(columns)}")
            if checkpoints:
                print(f"\n{precision.format_precisions(checkpoints)}")


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
    import_checkpoint(args.folder, args.out, args.attention)


def run_foundation(args: argparse.Namespace) -> None:
    log_conversion()
    import_foundation(FOUNDATIONS[args.model], args.out or f"runs/{args.model}", from_hub=args.source == "hub")


def run_export(args: argparse.Namespace) -> None:
    log_conversion()
    export_checkpoint(args.checkpoint, args.folder, args.dtype)


def run_migrate(args: argparse.Namespace) -> None:
    log_conversion()
    migrate(args.old, args.new)


def log_conversion() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("embed").setLevel(logging.INFO)  # which parameters were dropped, which are new
