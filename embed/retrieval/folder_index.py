"""An index of a folder's files, to find them by meaning: `python -m embed index`, then `python -m embed search`."""

import contextlib
import functools
import itertools
import json
import os
import pathlib
import sys
import zipfile
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from embed.data.files import is_media
from embed.data.pieces import Piece
from embed.distributed import storage
from embed.distributed.storage import one_line
from embed.embedder import Embedder
from embed.model.matryoshka import truncate_dim
from embed.retrieval.entries import read_entries
from embed.retrieval.search import top_k
from embed.training import checkpoint
from embed.training.metadata import read_metadata
from embed.training.weights import hash_params

CHUNK = 128  # entries that are decoded before they are embedded


def index_folder(
    path: storage.Path, folder: pathlib.Path, out: pathlib.Path, dim: int | None, trust: Collection[str] = ()
) -> tuple[int, int]:
    """Embed every file of a folder tree into `out`; return the number of files embedded in full, and of those skipped.

    A long PDF or text has several entries, `name#page=7` or `name#line=412` (see `entries`). Raises ValueError
    (CheckpointError, ...) and OSError, and if `out` cannot be written does so before embedding anything.
    """
    if not folder.is_dir():
        raise ValueError(f"no folder at {folder}")
    check_writable(out)
    own_path = os.path.realpath(out)
    names = [name for name in list_files(folder) if os.path.realpath(folder / name) != own_path]
    if not names:
        raise ValueError(f"no files in {folder}")
    run, step = checkpoint.locate(path)
    embedder = Embedder.load(run / "checkpoints" / str(step), trust=trust)
    width = embedder.width(dim)
    embedded: list[str] = []
    vectors: list[np.ndarray] = []
    skipped = 0
    with tqdm(total=len(names), desc=folder.name, unit="file", disable=not sys.stderr.isatty()) as bar:
        entries = read_folder(embedder, folder, names, bar)
        while chunk := list(itertools.islice(entries, CHUNK)):
            pieces = [piece for _, piece in chunk if piece is not None]
            skipped += len(chunk) - len(pieces)
            embedded += [name for name, piece in chunk if piece is not None]
            vectors.append(truncate_dim(embedder.encode(embedder.prepare(pieces.__getitem__, len(pieces))), width))
    if not embedded:
        raise ValueError(f"none of the {len(names)} files in {folder} can be embedded")
    metadata = {
        "checkpoint": storage.absolute(run / "checkpoints" / str(step)),
        "parameters": hash_params(embedder.params),
        "input_spec": read_metadata(path)["input_spec"],
    }
    write_index(out, np.concatenate(vectors), embedded, metadata)
    return len(names) - skipped, skipped


def list_files(folder: pathlib.Path) -> Iterator[str]:
    """Yield the relative path of every file in a tree, sorted; a link to a folder counts as a file.

    Names that begin with a dot (.git, .env, ...) are skipped, and everything in such folders.
    """
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        for name in sorted([name for name in files if not name.startswith(".")] + links):
            yield os.path.relpath(os.path.join(parent, name), folder)


def resolve_inside(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Return the path of a file in `folder`. Raises ValueError for a link that leaves it, or to a folder."""
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
    """Yield the entries of a folder's files; (name, None), with a log line, for a file that cannot be embedded."""
    decode = functools.partial(embedder.pieces, task="document")
    for name in names:
        try:
            for suffix, pieces in read_entries(resolve_inside(folder, name), decode):
                yield name + suffix, pieces
        except (ValueError, OSError) as error:
            tqdm.write(f"skipped {printable(name)}: {one_line(error)}", file=sys.stderr)
            yield name, None
        bar.update()


def search_index(
    path: pathlib.Path, words: Sequence[str], k: int, task: str, trust: Collection[str] = ()
) -> list[tuple[float, str]]:
    """Return the k best files of an index for a query, best first, as (cosine, path).

    Raises ValueError where the query cannot be embedded, or where the checkpoint changed after it made the index.
    """
    vectors, names, metadata = read_index(path)
    folder = storage.path(metadata["checkpoint"])
    embedder = Embedder.load(folder, trust=trust)
    now = hash_params(embedder.params), read_metadata(folder)["input_spec"]
    if now != (metadata["parameters"], metadata["input_spec"]):
        raise ValueError(f"{folder} has changed since {path} was written: index the folder again")
    query = parse_query(words)
    # A single file is embedded like the files of the index; text is a query.
    task = "document" if len(query) == 1 and isinstance(query[0], pathlib.Path) else task
    try:
        pieces = embedder.pieces(query, task)
    except (ValueError, OSError) as error:
        raise ValueError(f"the query cannot be embedded: {one_line(error)}") from error
    queries = truncate_dim(embedder.encode(embedder.prepare(lambda _: pieces, 1)), vectors.shape[1])
    scores, indices = top_k(queries, vectors, k)
    return [(float(score), names[i]) for score, i in zip(scores[0], indices[0], strict=True)]


def parse_query(words: Sequence[str]) -> list[str | pathlib.Path]:
    """Return a query's parts in order: a file's name is the file, and the words between files are one text.

    Raises ValueError for the name of a media file that does not exist.
    """
    parts: list[str | pathlib.Path] = []
    for word in words:
        if os.path.isfile(word):
            parts.append(pathlib.Path(word))
        elif is_media(word) and not any(c.isspace() for c in word):
            raise ValueError(f"no file {printable(word)}")
        elif parts and isinstance(parts[-1], str):
            parts[-1] += " " + word
        else:
            parts.append(word)
    return parts


def check_writable(out: pathlib.Path) -> None:
    """Raise ValueError, saying why, where `write_index` could not write to `out`. Leaves nothing there."""
    if not out.parent.is_dir():
        raise ValueError(f"no folder {out.parent} to write {out.name} to")
    if out.exists() and not out.is_file():
        raise ValueError(f"{out} is a folder or a device: give the name of a file for the index")
    if out.exists() and not out.stat().st_mode & 0o222:
        raise ValueError(f"{out} is read-only: remove it or give the index another name")
    with open_partial(out) as partial, partial.open("wb"):
        pass


@contextlib.contextmanager
def open_partial(out: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a path beside `out` to write to and rename; a leftover is removed. Raises ValueError naming `out`."""
    partial = out.with_name(out.name + ".partial")
    try:
        try:
            yield partial
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(f"the index cannot be written to {out}: {error.strerror or error}") from error


def write_index(out: pathlib.Path, vectors: np.ndarray, names: Sequence[str], metadata: dict[str, Any]) -> None:
    """Write an index atomically: vectors f32[n,dim], paths U[n], and metadata as JSON. Raises ValueError."""
    with open_partial(out) as partial:
        with partial.open("wb") as file:
            np.savez(file, vectors=vectors, paths=np.array(names, np.str_), about=np.array(json.dumps(metadata)))
        os.replace(partial, out)


def read_index(path: pathlib.Path) -> tuple[np.ndarray, list[str], dict[str, Any]]:
    """Return what `write_index` wrote. Raises ValueError where the file is not an index."""
    if not path.is_file():
        raise ValueError(f"no index at {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            vectors, names, metadata = file["vectors"], file["paths"].tolist(), json.loads(str(file["about"]))
        fits = vectors.ndim == 2 and vectors.dtype == np.float32 and isinstance(names, list)
        if not fits or len(vectors) != len(names) or not {"checkpoint", "parameters", "input_spec"} <= metadata.keys():
            raise ValueError("its arrays do not fit together")
    except (ValueError, KeyError, IndexError, AttributeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not an index: {one_line(error)}") from error
    return vectors, names, metadata


def printable(name: str) -> str:
    """Return a name as a terminal can print it: control characters and undecodable bytes are escaped."""
    return name if name.isprintable() else repr(name)
