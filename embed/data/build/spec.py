"""The input of a build: a folder of pairs, of a benchmark or of BEIR, or a Python file that defines a SPEC.

def pairs(row):
    yield Record(row["id"], (Text(row["caption"]),), (Image(row["image"]["bytes"]),), lang="en")

SPEC = Spec({"train": parquet("coco/train-*.parquet", pairs)}, source="MS COCO 2014", license="CC-BY-4.0")
"""

import dataclasses
import importlib.util
import pathlib
from collections.abc import Mapping, Sequence

from embed.data.build import formats
from embed.data.jsonl import parse_json
from embed.data.records import RecordError
from embed.data.sources import list_splits
from embed.distributed import storage


class SpecError(ValueError):
    """A path that is no spec; the message says what is missing."""


@dataclasses.dataclass(frozen=True)
class Spec:
    """A dataset to build.

    Splits whose name contains `train` lose duplicates and overlap with the evaluation splits; others are kept whole.
    """

    splits: Mapping[str, Sequence[formats.SourcePart]]
    source: str = ""  # origin, for the manifest
    license: str = ""
    task: str = ""
    qrels: storage.Path | None = None  # relevance judgments of a benchmark, whose splits are `corpus` and `queries`


def load_spec(path: pathlib.Path) -> Spec:
    """Load the spec of a folder, or of a Python file by running it.

    Raises SpecError, FileNotFoundError, and what the Python file raises.
    """
    if path.is_dir():
        return _folder_spec(path)
    if path.suffix != ".py" or not path.is_file():
        raise SpecError(f"{path} is neither a folder nor a Python file")
    module_spec = importlib.util.spec_from_file_location("spec", path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    if not isinstance(spec := getattr(module, "SPEC", None), Spec):
        raise SpecError(f"{path} defines no SPEC, an embed.data.build.spec.Spec")
    return spec


def _folder_spec(folder: pathlib.Path) -> Spec:
    names = list_splits(folder)
    if not names:
        raise SpecError(f"{folder}: no dataset: expected NAME.jsonl or NAME.array_record")
    facts = _read_facts(folder)
    if (folder / "qrels").is_dir():
        qrels_by_name = {path.stem: path for path in sorted(folder.glob("qrels/*.tsv"))}
        pairs = [name for name in names if name not in ("corpus", "queries")]
        if duplicated := sorted(set(pairs) & set(qrels_by_name)):
            raise SpecError(f"{folder}: split {duplicated[0]} is both pairs and qrels/{duplicated[0]}.tsv: remove one")
        splits: dict[str, Sequence[formats.SourcePart]]
        splits = {name: formats.beir(folder, name) for name in qrels_by_name if name != "test"}
        splits |= {name: formats.dataset_split(folder, name) for name in pairs}
        if "test" in qrels_by_name:
            splits |= formats.beir_test(folder)
        return Spec(splits, *facts, qrels_by_name.get("test"))
    qrels = folder / "qrels.tsv"
    if qrels.exists() and (missing := {"corpus", "queries"} - set(names)):
        raise SpecError(f"{folder}: qrels.tsv needs a corpus and queries, but there is no {sorted(missing)[0]}")
    return Spec(
        {name: formats.dataset_split(folder, name) for name in names}, *facts, qrels if qrels.exists() else None
    )


def _read_facts(folder: pathlib.Path) -> tuple[str, str, str]:
    """Read (source, license, task) from meta.json, or from the manifest of a build."""
    path = next((path for path in (folder / "meta.json", folder / "manifest.json") if path.exists()), None)
    if path is None:
        return "", "", ""
    facts = parse_json(path.read_bytes(), str(path))
    source = facts.get("source") or ""
    license = facts.get("license") or ""
    task = facts.get("task") or ""
    if not (isinstance(source, str) and isinstance(license, str) and isinstance(task, str)):
        raise RecordError(f"{path}: source, license and task: expected strings")
    return source, license, task
