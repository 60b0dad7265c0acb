"""Corpora that need no download: the standard library, the plotting library's fonts, and a procedural world."""

import hashlib
import itertools
import json
import logging
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tqdm import tqdm

from embed.data import sources
from embed.data.records import Record
from embed.distributed import storage
from embed.toy_corpora import glyphs, melody, motion, scenes, stdlib, synthetic
from embed.toy_corpora.splits import SPLITS

log = logging.getLogger(__name__)


class Corpus(NamedTuple):
    """How a dataset is made, and what its manifest says of it."""

    records: Callable[[str], Iterator[Record]]  # of a split
    task: str
    source: str
    licence: str
    splits: tuple[str, ...] = SPLITS


PYTHON = f"the standard library of Python {sys.version_info.major}.{sys.version_info.minor}", "PSF-2.0"
FONTS = "Unicode character names; DejaVu and STIX fonts", "Unicode-3.0; Bitstream-Vera; OFL-1.1"
WORLD = "procedural", "Apache-2.0"
CORPORA = {
    "stdlib_code": Corpus(stdlib.code_records, "code", *PYTHON),
    "synthetic_code": Corpus(
        synthetic.code_records, "code", f"{PYTHON[0]}, asked about by grammar", PYTHON[1], ("train",)
    ),
    "stdlib_text": Corpus(stdlib.text_records, "text", *PYTHON),
    "stdlib_document": Corpus(stdlib.document_records, "document", *PYTHON),
    "stdlib_titles": Corpus(stdlib.title_records, "image", *PYTHON, ("train",)),
    "glyphs": Corpus(glyphs.glyph_records, "image", *FONTS),
    "scenes_image": Corpus(scenes.image_records, "image", *WORLD),
    "scenes_noisy": Corpus(scenes.noisy_records, "image", *WORLD, ("train",)),
    "scenes_video": Corpus(motion.video_records, "video", *WORLD),
    "scenes_audio": Corpus(melody.audio_records, "audio", *WORLD),
    "scenes_edit": Corpus(scenes.edit_records, "interleaved", *WORLD),
    "scenes_labels": Corpus(scenes.label_records, "classification", *WORLD),
}


def build(root: storage.Path, most: int | None = None) -> None:
    """Writes `root/<name>/<split>.array_record` and `root/<name>/manifest.json` of every corpus that is not there yet.

    The manifest is written last: a dataset without one was left by a build that was killed, and is built again. `most`
    is the number of records of a split, for tests.
    """
    missing = [name for name in CORPORA if not (root / name / "manifest.json").exists()]
    terminal = sys.stderr.isatty()
    for name in tqdm(missing, desc=f"corpora in {root}", unit="corpus", disable=not terminal or not missing):
        counts = _build(root / name, CORPORA[name], most)
        if not terminal:
            log.info("%s: %s", root / name, ", ".join(f"{count} {split}" for split, count in counts.items()))


def _build(folder: storage.Path, corpus: Corpus, most: int | None) -> dict[str, int]:
    """One dataset, its manifest last; returns the number of records of each split."""
    counts, sha256 = {}, {}
    for split in corpus.splits:
        path = folder / f"{split}.array_record"
        counts[split] = sources.write(path, itertools.islice(corpus.records(split), most))
        sha256[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest = {
        "task": corpus.task,
        "source": corpus.source,
        "licence": corpus.licence,
        "counts": counts,
        "sha256": sha256,
    }
    with storage.atomic_write(folder / "manifest.json") as file:
        file.write_text(json.dumps(manifest, indent=2) + "\n")
    return counts
