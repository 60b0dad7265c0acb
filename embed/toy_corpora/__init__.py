"""Corpora that need no download: the standard library, matplotlib's fonts, and procedural scenes."""

import hashlib
import itertools
import json
import logging
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tqdm import tqdm

from embed.data.records import Record
from embed.data.writing import write_records
from embed.distributed import storage
from embed.toy_corpora import glyphs, melody, motion, scenes, stdlib, synthetic
from embed.toy_corpora.splits import SPLITS

log = logging.getLogger(__name__)


class Corpus(NamedTuple):
    """How to make a dataset, and what its manifest says."""

    records: Callable[[str], Iterator[Record]]  # of a split, by name
    task: str
    source: str
    license: str
    splits: tuple[str, ...] = SPLITS


# (source, license)
PYTHON = f"the standard library of Python {sys.version_info.major}.{sys.version_info.minor}", "PSF-2.0"
FONTS = "Unicode character names; DejaVu and STIX fonts", "Unicode-3.0; Bitstream-Vera; OFL-1.1"
PROCEDURAL = "procedural", "Apache-2.0"
CORPORA = {
    "stdlib_code": Corpus(stdlib.code_records, "code", *PYTHON),
    "synthetic_code": Corpus(
        synthetic.code_records, "code", f"{PYTHON[0]}, with questions written by a grammar", PYTHON[1], ("train",)
    ),
    "stdlib_text": Corpus(stdlib.text_records, "text", *PYTHON),
    "stdlib_document": Corpus(stdlib.document_records, "document", *PYTHON),
    "stdlib_titles": Corpus(stdlib.title_records, "image", *PYTHON, ("train",)),
    "glyphs": Corpus(glyphs.glyph_records, "image", *FONTS),
    "scenes_image": Corpus(scenes.image_records, "image", *PROCEDURAL),
    "scenes_noisy": Corpus(scenes.noisy_records, "image", *PROCEDURAL, ("train",)),
    "scenes_video": Corpus(motion.video_records, "video", *PROCEDURAL),
    "scenes_audio": Corpus(melody.audio_records, "audio", *PROCEDURAL),
    "scenes_edit": Corpus(scenes.edit_records, "interleaved", *PROCEDURAL),
    "scenes_labels": Corpus(scenes.label_records, "classification", *PROCEDURAL),
}


def build(root: storage.Path, max_records: int | None = None) -> None:
    """Write `root/<name>/<split>.array_record` and `root/<name>/manifest.json` for every corpus that `root` lacks.

    The manifest is written last: a dataset without one is of a killed build and is built again. `max_records` limits
    every split, for tests.
    """
    missing = [name for name in CORPORA if not (root / name / "manifest.json").exists()]
    is_terminal = sys.stderr.isatty()
    for name in tqdm(missing, desc=f"corpora in {root}", unit="corpus", disable=not is_terminal or not missing):
        counts = _build(root / name, CORPORA[name], max_records)
        if not is_terminal:
            log.info("%s: %s", root / name, ", ".join(f"{count} {split}" for split, count in counts.items()))


def _build(folder: storage.Path, corpus: Corpus, max_records: int | None) -> dict[str, int]:
    """Write one dataset, its manifest last; return the number of records of each split."""
    counts, sha256 = {}, {}
    for split in corpus.splits:
        path = folder / f"{split}.array_record"
        counts[split] = write_records(path, itertools.islice(corpus.records(split), max_records))
        sha256[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest = {
        "task": corpus.task,
        "source": corpus.source,
        "license": corpus.license,
        "counts": counts,
        "sha256": sha256,
    }
    with storage.atomic_write(folder / "manifest.json") as file:
        file.write_text(json.dumps(manifest, indent=2) + "\n")
    return counts
