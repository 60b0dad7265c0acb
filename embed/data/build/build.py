"""Build a training dataset from any source: `python -m embed build SPEC OUT`; `spec.py` defines what a SPEC is.

Parts are read in parallel and kept in OUT/.parts until all are complete, so that an interrupted build resumes. Then
training splits lose duplicates and overlap with evaluation splits. OUT gets ArrayRecord shards, quarantine.jsonl (the
position of each record that cannot be read or decoded, and the reason), and last manifest.json. A few numbers per
record are held in memory, never its media.
"""

import collections
import dataclasses
import hashlib
import itertools
import json
import pathlib
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from grain.sources import ArrayRecordDataSource
from tqdm import tqdm

from embed.data.build import spec
from embed.data.build.dedup import NUM_HASHES, contains_near_duplicate, first_occurrence, near_first_occurrence
from embed.data.build.read_parts import PartJob, load_info, read_parts
from embed.data.jsonl import parse_json
from embed.data.qrels import read_judgments, read_qrels
from embed.data.sources import ArrayRecordSource, open_split, read_records
from embed.data.writing import write_shards
from embed.distributed import lock, storage


class BuildError(ValueError):
    """A dataset that cannot be built; the message names the cause and the remedy."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How to filter the training splits. Recorded in the manifest."""

    near: float | None = (
        None  # similarity of both sides from which two records are duplicates; None = only equal ones are
    )
    against: tuple[pathlib.Path, ...] = ()  # evaluation datasets: records that contain their queries are dropped


def build(spec_path: pathlib.Path, out: pathlib.Path, options: Options, workers: int) -> dict[str, Any]:
    """Build OUT from a spec, or resume; return its manifest. A complete OUT is left as it is.

    Raises BuildError where OUT is of another spec or other options, or a split has no record, StorageError where
    another process builds there, and what `spec.load_spec` raises.
    """
    if out.resolve() in (source.resolve() for source in (spec_path, *options.against)):
        raise BuildError(f"{out} is an input of this build: give another output folder")
    dataset = spec.load_spec(spec_path)
    manifest = out / "manifest.json"
    inputs = {
        "spec": _fingerprint(spec_path),
        "near": options.near,
        "against": [str(other) for other in options.against],
    }
    with lock.lock_folder(out):
        if not manifest.exists():
            _build(spec_path, dataset, out, options, inputs, workers)
        facts = parse_json(manifest.read_bytes(), str(manifest))
    if {key: facts.get(key) for key in inputs} != inputs:
        raise BuildError(f"{out} holds a dataset of another spec or other options: give another folder")
    return facts


def _build(
    spec_path: pathlib.Path,
    dataset: spec.Spec,
    out: pathlib.Path,
    options: Options,
    inputs: dict[str, Any],
    workers: int,
) -> None:
    """Write OUT, its manifest last."""
    work = out / ".parts"
    splits = _part_jobs(spec_path, dataset, work, options)
    evaluations = {f"its own {name}": jobs for name, jobs in splits.items() if is_eval_split(name)}
    for number, other in enumerate(options.against):
        other_splits = _part_jobs(other, spec.load_spec(other), work / f"against{number}", options)
        evaluations |= {f"{name} of {other}": jobs for name, jobs in other_splits.items() if is_eval_split(name)}

    inputs_file = work / "inputs.json"
    work.mkdir(exist_ok=True)
    if inputs_file.exists() and parse_json(inputs_file.read_bytes(), str(inputs_file)) != inputs:
        raise BuildError(f"{work} is of another spec or other options: delete it, or give another folder")
    with storage.atomic_write(inputs_file) as file:
        file.write_text(json.dumps(inputs), encoding="utf-8")
    all_jobs = [job for jobs in (*splits.values(), *evaluations.values()) for job in jobs]
    read_parts(list(dict.fromkeys(all_jobs)), workers)

    split_facts = {name: _write_split(name, jobs, evaluations, out, options) for name, jobs in splits.items()}
    facts: dict[str, Any] = {"source": dataset.source, "license": dataset.license, "task": dataset.task} | inputs
    facts |= {"counts": {name: split["records"] for name, split in split_facts.items()}, "splits": split_facts}
    if dataset.qrels is not None:
        facts["judgments"] = _write_judgments(dataset.qrels, out)
    with storage.atomic_write(out / "quarantine.jsonl") as file, file.open("wb") as lines:
        lines.writelines(job.file(".quarantine").read_bytes() for jobs in splits.values() for job in jobs)
    with storage.atomic_write(out / "manifest.json") as file:
        file.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    shutil.rmtree(work)


def is_eval_split(split: str) -> bool:
    """Return whether a split is for evaluation: its queries must not be trained on."""
    return "train" not in split and split != "corpus"


def _fingerprint(path: pathlib.Path) -> str:
    """Hash a spec's file; of a folder, the names, sizes and times of its files, except hidden ones."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    files = [p for p in sorted(path.iterdir()) if p.is_file() and not p.name.startswith(".")]
    listed = [f"{p.name} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in files]
    return hashlib.sha256("\n".join(listed).encode()).hexdigest()


def _part_jobs(
    spec_path: pathlib.Path, dataset: spec.Spec, work: pathlib.Path, options: Options
) -> dict[str, list[PartJob]]:
    """List the parts of every split. Raises BuildError where a split has none."""
    near = options.near is not None
    if empty := [name for name, parts in dataset.splits.items() if not parts]:
        raise BuildError(f"{empty[0]}: it is empty: {spec_path} has no record of it")
    return {
        name: [PartJob(spec_path, name, i, work / name / f"{i:06}", near) for i in range(len(parts))]
        for name, parts in dataset.splits.items()
    }


def _write_split(
    name: str,
    jobs: Sequence[PartJob],
    evaluations: Mapping[str, Sequence[PartJob]],
    out: pathlib.Path,
    options: Options,
) -> dict[str, Any]:
    """Filter and write a split; return its entry of the manifest. Raises BuildError where no record can be read."""
    quarantined = collections.Counter(
        _generalize_reason(json.loads(line))
        for job in jobs
        for line in job.file(".quarantine").read_bytes().splitlines()
    )
    sizes = _load_column(jobs, "sizes")
    if not len(sizes):
        if not quarantined:
            raise BuildError(f"{name}: it is empty")
        raise BuildError(f"{name}: no record can be read; the most common reason: {quarantined.most_common(1)[0][0]}")
    facts: dict[str, Any] = {"read": len(sizes) + quarantined.total(), "quarantined": dict(quarantined.most_common())}
    keep = np.ones(len(sizes), bool)
    if "train" in name:
        for reason, is_dropped in _filters(jobs, evaluations, options):
            facts[reason] = int((keep & is_dropped).sum())
            keep &= ~is_dropped
    facts["records"] = int(keep.sum())
    for key in ("langs", "modalities"):
        values = (_load_column([job], key)[kept].tolist() for job, kept in _slices(jobs, keep))
        counts = collections.Counter(itertools.chain.from_iterable(values))
        facts[key] = {value: n for value, n in counts.most_common() if value}
    return facts | {"shards": _write_shards(name, jobs, keep, out)}


def _generalize_reason(line: dict[str, str]) -> str:
    """Strip position, names and numbers from a quarantine reason, so that equal reasons can be counted."""
    why = line["why"].removeprefix(line["where"]).removeprefix(": ")
    return re.sub(r"\d[\d,.]*", "N", re.sub(r"'[^']*'|/\S+:\d+", "…", why))


def _filters(
    jobs: Sequence[PartJob], evaluations: Mapping[str, Sequence[PartJob]], options: Options
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each reason to drop records from training, with the records it concerns, bool[n]."""
    hashes = _load_column(jobs, "hashes")
    yield "duplicates", ~first_occurrence(hashes.reshape(-1, 4))
    if options.near is not None:
        signatures = _signatures(jobs)
        yield "near duplicates", ~near_first_occurrence(signatures, options.near)
    for name, others in evaluations.items():
        query_hashes = np.ascontiguousarray(_load_column(others, "hashes")[:, 0]).view(np.uint64)
        is_eval_query = np.isin(hashes.view(np.uint64)[..., 0], query_hashes)  # bool[n,2], of query and positive
        if options.near is not None:
            queries = _signatures(others)[:, 0]
            for side in range(2):
                is_eval_query[:, side] |= contains_near_duplicate(signatures[:, side], queries, options.near)
        # The positive of a labeled record is the name of its class, which may also be a query.
        is_overlap = is_eval_query[:, 0] | (is_eval_query[:, 1] & ~_load_column(jobs, "labeled"))
        yield f"overlap with {name}", is_overlap


def _load_column(jobs: Sequence[PartJob], field: str) -> np.ndarray:
    """Concatenate one field of `load_info` over parts."""
    columns = []
    for job in jobs:
        with load_info(job) as info:
            columns.append(info[field])
    return np.concatenate(columns)


def _signatures(jobs: Sequence[PartJob]) -> np.ndarray:
    """Gather the signatures of parts, u32[n,2,128], in a memory-mapped file: they may exceed memory."""
    counts = [len(_load_column([job], "sizes")) for job in jobs]
    file = jobs[0].stem.with_name("signatures.npy")
    signatures = np.lib.format.open_memmap(file, "w+", np.uint32, (sum(counts), 2, NUM_HASHES))
    for job, stop, count in zip(jobs, np.cumsum(counts), counts, strict=True):
        signatures[stop - count : stop] = _load_column([job], "signatures")
    return signatures


def _slices(jobs: Sequence[PartJob], keep: np.ndarray) -> Iterator[tuple[PartJob, np.ndarray]]:
    """Yield each part with its slice of `keep`."""
    start = 0
    for job in jobs:
        stop = start + len(_load_column([job], "sizes"))
        yield job, keep[start:stop]
        start = stop


def _write_shards(name: str, jobs: Sequence[PartJob], keep: np.ndarray, out: pathlib.Path) -> list[dict[str, Any]]:
    """Write the records of a split that `keep` marks; return the manifest's entries of the shards."""
    disable = not sys.stderr.isatty()
    records = tqdm(
        _iter_records(jobs, keep), total=int(keep.sum()), desc=f"writing {name}", unit="record", disable=disable
    )
    shards = []
    for path in write_shards(out, name, records):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        count = len(ArrayRecordSource(path))
        shards.append({"name": path.name, "records": count, "bytes": path.stat().st_size, "sha256": digest})
    return shards


def _iter_records(jobs: Sequence[PartJob], keep: np.ndarray) -> Iterator[bytes]:
    """Yield the encoded records that `keep` marks, in order."""
    for job, kept in _slices(jobs, keep):
        if kept.any():
            source = ArrayRecordDataSource([str(job.file(".array_record"))])
            yield from (source[int(i)] for i in np.flatnonzero(kept))


def _write_judgments(path: storage.Path, out: pathlib.Path) -> dict[str, int]:
    """Write the lines of qrels.tsv whose query and document exist; count them and the others."""
    queries = {record.id for record in read_records(open_split(out, "queries"))}
    corpus = {record.id for record in read_records(open_split(out, "corpus"))}
    judgments = read_judgments(path, queries, corpus)
    with storage.atomic_write(out / "qrels.tsv") as file:
        lines = (f"{query}\t{document}\t{grade}\n" for query, document, grade in judgments)
        file.write_text("".join(lines), encoding="utf-8")
    return {"records": len(judgments), "lost": sum(1 for _ in read_qrels(path)) - len(judgments)}
