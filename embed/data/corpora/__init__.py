"""Corpora that need no download: built from the standard library, the plotting fonts, and a procedural world."""

import functools
import hashlib
import json
import logging
import multiprocessing
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tqdm import tqdm

from embed.data import records
from embed.data.corpora import glyphs, scenes, stdlib
from embed.data.records import Record

log = logging.getLogger(__name__)
SPLITS = ("train", "dev", "test")


class Corpus(NamedTuple):
    records: Callable[[str], Iterator[Record]]  # of a split
    task: str
    source: str
    licence: str


PYTHON = "the Python standard library of this interpreter", "PSF-2.0"
FONTS = "Unicode names; DejaVu fonts", "Unicode-3.0; Bitstream Vera"
WORLD = "procedural", "Apache-2.0"
CORPORA = {
    "stdlib_code": Corpus(stdlib.code, "code", *PYTHON),
    "stdlib_text": Corpus(stdlib.text, "text", *PYTHON),
    "stdlib_document": Corpus(stdlib.document, "document", *PYTHON),
    "glyphs": Corpus(glyphs.glyphs, "image", *FONTS),
    "scenes_image": Corpus(scenes.images, "image", *WORLD),
    "scenes_noisy": Corpus(scenes.noisy, "image", *WORLD),
    "scenes_video": Corpus(scenes.videos, "video", *WORLD),
    "scenes_audio": Corpus(scenes.sounds, "audio", *WORLD),
    "scenes_edit": Corpus(scenes.edits, "interleaved", *WORLD),
    "scenes_labels": Corpus(scenes.labels, "classification", *WORLD),
}


def build(root: pathlib.Path, processes: int = 2) -> None:
    """Writes every corpus to `root/<name>/<split>.array_record` with a manifest, leaving alone what is already whole.

    A manifest is written last, so a build that was killed is done again.
    """
    missing = [name for name in CORPORA if not (root / name / "manifest.json").exists()]
    if not missing:
        return
    log.info("building %d corpora in %s", len(missing), root)
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        done = pool.imap_unordered(functools.partial(build_one, root), missing)
        for name in tqdm(done, total=len(missing), desc="corpora", unit="corpus", disable=not sys.stderr.isatty()):
            log.info("built %s", name)


def build_one(root: pathlib.Path, name: str) -> str:
    """One corpus: its splits, then its manifest."""
    corpus, folder = CORPORA[name], root / name
    counts = {split: records.write(folder / f"{split}.array_record", corpus.records(split)) for split in SPLITS}
    manifest = {
        "task": corpus.task,
        "source": corpus.source,
        "licence": corpus.licence,
        "counts": counts,
        "sha256": {s: hashlib.sha256((folder / f"{s}.array_record").read_bytes()).hexdigest() for s in SPLITS},
    }
    partial = folder / "manifest.partial"
    partial.write_text(json.dumps(manifest, indent=1))
    partial.replace(folder / "manifest.json")
    return name
