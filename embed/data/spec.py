"""What a dataset is built from: a folder of pairs, of a benchmark or of BEIR, or a Python file that says where rows are
and which records they make.

    def pairs(row):
        yield Record(row["id"], (Text(row["caption"]),), (Image(row["image"]["bytes"]),), lang="en")

    SPEC = Spec({"train": parquet("coco/train-*.parquet", pairs)}, source="MS COCO 2014", licence="CC-BY-4.0")
"""

import dataclasses
import importlib.util
import json
import pathlib
from collections.abc import Mapping, Sequence

from embed import storage
from embed.data import formats
from embed.data.records import parse_graded, parse_item, parse_line
from embed.data.sources import splits_in


class SpecError(ValueError):
    """A spec that is none; the message says what is missing."""


@dataclasses.dataclass(frozen=True)
class Spec:
    """Splits whose name holds `train` lose duplicates and what the others ask; these stay as they were published."""

    splits: Mapping[str, Sequence[formats.Part]]
    source: str = ""  # where it is from
    licence: str = ""
    task: str = ""
    qrels: storage.Path | None = None  # the judgements of a benchmark, whose splits are `corpus` and `queries`


def load(path: pathlib.Path) -> Spec:
    """The spec of a folder or a Python file, which is run. Raises SpecError, FileNotFoundError, what a file raises."""
    if path.is_dir():
        return _of_folder(path)
    if path.suffix != ".py" or not path.is_file():
        raise SpecError(f"{path} is neither a folder nor a Python file")
    about = importlib.util.spec_from_file_location("spec", path)
    assert about is not None and about.loader is not None
    module = importlib.util.module_from_spec(about)
    about.loader.exec_module(module)
    if not isinstance(found := getattr(module, "SPEC", None), Spec):
        raise SpecError(f"{path} defines no SPEC, an embed.data.spec.Spec")
    return found


def _of_folder(folder: pathlib.Path) -> Spec:
    names, meta = splits_in(folder), folder / "meta.json"
    if not names:
        raise SpecError(f"{folder}: no dataset there: expected NAME.jsonl or NAME.array_record")
    about = json.loads(meta.read_bytes()) if meta.exists() else {}
    source, licence, task = (str(about.get(key, "")) for key in ("source", "licence", "task"))
    splits: dict[str, Sequence[formats.Part]]
    if (folder / "qrels").is_dir():
        judged = {path.stem: path for path in sorted(folder.glob("qrels/*.tsv"))}
        splits = {name: formats.beir(folder, name) for name in judged if name != "test"}
        if "test" in judged:
            splits |= formats.beir_test(folder)
        return Spec(splits, source, licence, task, judged.get("test"))
    if (folder / "qrels.tsv").exists():
        splits = {name: formats.split(folder, name, parse_item) for name in ("corpus", "queries")}
        return Spec(splits, source, licence, task, folder / "qrels.tsv")
    splits = {
        name: formats.split(folder, name, parse_graded if name.startswith("sts") else parse_line) for name in names
    }
    return Spec(splits, source, licence, task)
