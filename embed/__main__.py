"""`python -m embed index CHECKPOINT FOLDER`, then `python -m embed search INDEX QUERY`: find files by meaning."""

import argparse
import contextlib
import functools
import itertools
import json
import os
import pathlib
import sys
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from embed.data import prompts
from embed.data.files import is_media
from embed.data.pieces import Piece
from embed.distributed import storage
from embed.distributed.storage import one_line
from embed.embedder import Embedder
from embed.retrieval.entries import read_entries
from embed.retrieval.search import top_k, truncate_dim
from embed.training import checkpoint

CHUNK = 128  # entries decoded before they are embedded


def index(path: storage.Path, folder: pathlib.Path, out: pathlib.Path, dim: int | None) -> tuple[int, int]:
    """Embeds every file of a folder tree into `out`; returns how many, and how many could not be, whole at least.

    A long PDF or text has several entries, `name#page=7` or `name#line=412` (see `entries`).

    Raises ValueError (CheckpointError, ...) and OSError; where nothing can be written, before anything is embedded.
    """
    if not folder.is_dir():
        raise ValueError(f"no folder at {folder}")
    check_writable(out)
    place = os.path.realpath(out)
    names = [name for name in walk(folder) if os.path.realpath(folder / name) != place]
    if not names:
        raise ValueError(f"no files in {folder}")
    run, step = checkpoint.locate(path)
    embedder = Embedder.load(run / "checkpoints" / str(step))
    width = embedder.width(dim)
    done: list[str] = []
    vectors: list[np.ndarray] = []
    skipped = 0
    with tqdm(total=len(names), desc=folder.name, unit="file", disable=not sys.stderr.isatty()) as bar:
        entries = read_folder(embedder, folder, names, bar)
        while chunk := list(itertools.islice(entries, CHUNK)):
            pieces = [piece for _, piece in chunk if piece is not None]
            skipped += len(chunk) - len(pieces)
            done += [name for name, piece in chunk if piece is not None]
            vectors.append(truncate_dim(embedder.encode(embedder.prepare(pieces.__getitem__, len(pieces))), width))
    if not done:
        raise ValueError(f"none of the {len(names)} files in {folder} can be embedded")
    about = {
        "checkpoint": storage.absolute(run / "checkpoints" / str(step)),
        "parameters": checkpoint.fingerprint(embedder.params),
        "input_spec": checkpoint.metadata(path)["input_spec"],
    }
    write(out, np.concatenate(vectors), done, about)
    return len(names) - skipped, skipped


def walk(folder: pathlib.Path) -> Iterator[str]:
    """Relative paths of everything in a tree that is not a folder, sorted; a link to a folder counts as a file.

    Names that begin with a dot (.git, .env, ...) are passed over, and what is in such folders.
    """
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        for name in sorted([name for name in files if not name.startswith(".")] + links):
            yield os.path.relpath(os.path.join(parent, name), folder)


def inside(folder: pathlib.Path, name: str) -> pathlib.Path:
    """The file of that name. Raises ValueError where it is a link out of the folder, or to one."""
    path = folder / name
    if path.is_symlink():
        if not pathlib.Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
            raise ValueError("a link that leaves the folder")
        if path.is_dir():
            raise ValueError("a link to a folder")
    return path


def read_folder(
    embedder: Embedder, folder: pathlib.Path, names: Sequence[str], bar: tqdm
) -> Iterator[tuple[str, list[Piece] | None]]:
    """Yields the entries of the files of a folder, and (name, None) for one that cannot be embedded, and is logged."""
    decode = functools.partial(embedder.pieces, task="document")
    for name in names:
        try:
            for place, pieces in read_entries(inside(folder, name), decode):
                yield name + place, pieces
        except (ValueError, OSError) as error:
            tqdm.write(f"skipped {shown(name)}: {one_line(error)}", file=sys.stderr)
            yield name, None
        bar.update()


def search(path: pathlib.Path, words: Sequence[str], k: int, task: str) -> list[tuple[float, str]]:
    """The k best files of an index for a query, best first, as (score, path).

    Raises ValueError where the query cannot be embedded or the index is not the work of its checkpoint as it is now.
    """
    vectors, names, about = read(path)
    folder = storage.path(about["checkpoint"])
    embedder = Embedder.load(folder)
    now = checkpoint.fingerprint(embedder.params), checkpoint.metadata(folder)["input_spec"]
    if now != (about["parameters"], about["input_spec"]):
        raise ValueError(f"{folder} has changed since {path} was written: index the folder again")
    query = parse_query(words)
    # a file alone is compared as the files of the index are; words are a query
    task = "document" if len(query) == 1 and isinstance(query[0], pathlib.Path) else task
    try:
        pieces = embedder.pieces(query, task)
    except (ValueError, OSError) as error:
        raise ValueError(f"the query cannot be embedded: {one_line(error)}") from error
    asked = truncate_dim(embedder.encode(embedder.prepare(lambda _: pieces, 1)), vectors.shape[1])
    scores, indices = top_k(asked, vectors, k)
    return [(float(score), names[i]) for score, i in zip(scores[0], indices[0], strict=True)]


def parse_query(words: Sequence[str]) -> list[str | pathlib.Path]:
    """Arguments -> parts in order: a name of a file is the file, what stands between files is one text.

    Raises ValueError for the name of a medium that is not there.
    """
    parts: list[str | pathlib.Path] = []
    for word in words:
        if os.path.isfile(word):
            parts.append(pathlib.Path(word))
        elif is_media(word) and not any(c.isspace() for c in word):
            raise ValueError(f"no file {shown(word)}")
        elif parts and isinstance(parts[-1], str):
            parts[-1] += " " + word
        else:
            parts.append(word)
    return parts


def check_writable(out: pathlib.Path) -> None:
    """Raises ValueError, saying why, where `write` could not put an index at `out`; leaves nothing there."""
    if not out.parent.is_dir():
        raise ValueError(f"no folder {out.parent} to write {out.name} to")
    if out.exists() and not out.is_file():
        raise ValueError(f"{out} is a folder or a device: give the name of a file for the index")
    if out.exists() and not out.stat().st_mode & 0o222:
        raise ValueError(f"{out} is read-only: remove it or give the index another name")
    with writing(out) as partial, partial.open("wb"):
        pass


@contextlib.contextmanager
def writing(out: pathlib.Path) -> Iterator[pathlib.Path]:
    """A name beside `out` for what becomes it; what is left there at the end goes. Raises ValueError naming `out`."""
    partial = out.with_name(out.name + ".partial")
    try:
        try:
            yield partial
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(f"the index cannot be written to {out}: {error.strerror or error}") from error


def write(out: pathlib.Path, vectors: np.ndarray, names: Sequence[str], about: dict[str, Any]) -> None:
    """An index file, whole or not at all: vectors f32[n,dim], paths U[n], and where they come from as JSON.

    Raises ValueError where it cannot be written.
    """
    with writing(out) as partial:
        with partial.open("wb") as file:
            np.savez(file, vectors=vectors, paths=np.array(names, np.str_), about=np.array(json.dumps(about)))
        os.replace(partial, out)


def read(path: pathlib.Path) -> tuple[np.ndarray, list[str], dict[str, Any]]:
    """Inverse of `write`. Raises ValueError where the file is not an index."""
    if not path.is_file():
        raise ValueError(f"no index at {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            vectors, names, about = file["vectors"], file["paths"].tolist(), json.loads(str(file["about"]))
        fits = vectors.ndim == 2 and vectors.dtype == np.float32 and isinstance(names, list)
        if not fits or len(vectors) != len(names) or not {"checkpoint", "parameters", "input_spec"} <= about.keys():
            raise ValueError("its arrays do not fit together")
    except (ValueError, KeyError, IndexError, AttributeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not an index: {one_line(error)}") from error
    return vectors, names, about


def shown(name: str) -> str:
    """A name for a line of a terminal: control characters and undecodable bytes escaped."""
    return name if name.isprintable() else repr(name)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m embed", description="Search a folder with a trained encoder.")
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("index", help="embed every file of a folder tree")
    make.add_argument("checkpoint", type=storage.path, help="a run's or soup's folder, or one checkpoints/STEP of it")
    make.add_argument(
        "folder",
        type=pathlib.Path,
        help="images, audio, video, PDFs, text and source code; not links out of it, nor names that begin with a dot",
    )
    make.add_argument("--out", type=pathlib.Path, metavar="FILE.npz", help="the index; FOLDER's name .npz if not given")
    make.add_argument("--dim", type=int, help="numbers of a vector, fewer than the encoder's own")
    find = commands.add_parser("search", help="the files of an index nearest a query")
    find.add_argument("index", type=pathlib.Path)
    find.add_argument("query", nargs="+", help="text, or a file; several are one interleaved input, in order")
    find.add_argument("--k", type=int, default=10, help="how many files (10)")
    find.add_argument("--task", choices=prompts.QUERY_TASKS, default=prompts.QUERY_TASKS[0], help="prompt of a text")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status, 2 after an error of one line."""
    args = parse_args(argv)
    try:
        if args.command == "index":
            out = args.out or pathlib.Path(f"{args.folder.resolve().name or 'index'}.npz")
            done, skipped = index(args.checkpoint, args.folder, out, args.dim)
            print(f"{done} files embedded, {skipped} skipped: {shown(str(out))}")
        else:
            if args.k < 1:
                raise ValueError(f"--k {args.k}: at least 1")
            for rank, (score, name) in enumerate(search(args.index, args.query, args.k, args.task), 1):
                print(f"{rank:3}  {score:7.4f}  {shown(name)}")
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}".encode(errors="backslashreplace").decode(), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
