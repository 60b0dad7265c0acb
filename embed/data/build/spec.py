"""What a dataset is built from: a folder of pairs, of a benchmark or of BEIR, or a Python file that says where rows are
and which records they make.

    def pairs(row):
        yield Record(row["id"], (Text(row["caption"]),), (Image(row["image"]["bytes"]),), lang="en")

    SPEC = Spec({"train": parquet("coco/train-*.parquet", pairs)}, source="MS COCO 2014", licence="CC-BY-4.0")
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
        raise SpecError(f"{path} defines no SPEC, an embed.data.build.spec.Spec")
    return found


def _of_folder(folder: pathlib.Path) -> Spec:
    names = list_splits(folder)
    if not names:
        raise SpecError(f"{folder}: no dataset there: expected NAME.jsonl or NAME.array_record")
    facts = _facts(folder)
    if (folder / "qrels").is_dir():
        judged = {path.stem: path for path in sorted(folder.glob("qrels/*.tsv"))}
        pairs = [name for name in names if name not in ("corpus", "queries")]
        if twice := sorted(set(pairs) & set(judged)):
            raise SpecError(f"{folder}: {twice[0]} is there twice, as pairs and as qrels/{twice[0]}.tsv: take one away")
        splits: dict[str, Sequence[formats.Part]]
        splits = {name: formats.beir(folder, name) for name in judged if name != "test"}
        splits |= {name: formats.split(folder, name) for name in pairs}
        if "test" in judged:
            splits |= formats.beir_test(folder)
        return Spec(splits, *facts, judged.get("test"))
    qrels = folder / "qrels.tsv"
    if qrels.exists() and (missing := {"corpus", "queries"} - set(names)):
        raise SpecError(f"{folder}: qrels.tsv needs a corpus and queries, and there is no {sorted(missing)[0]} there")
    return Spec({name: formats.split(folder, name) for name in names}, *facts, qrels if qrels.exists() else None)


def _facts(folder: pathlib.Path) -> tuple[str, str, str]:
    """Source, licence and task, by meta.json, or by the manifest of a build."""
    path = next((path for path in (folder / "meta.json", folder / "manifest.json") if path.exists()), None)
    if path is None:
        return "", "", ""
    about = parse_json(path.read_bytes(), str(path))
    source, licence, task = (about.get(key) or "" for key in ("source", "licence", "task"))
    if not (isinstance(source, str) and isinstance(licence, str) and isinstance(task, str)):
        raise RecordError(f"{path}: source, licence and task: expected strings")
    return source, licence, task
