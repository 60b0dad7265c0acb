"""Any source to a dataset to train on: `python -m embed build SPEC OUT`; see `spec.py` for what a SPEC is.

Parts are read side by side and kept in OUT/.parts until all are there, so that a build that was stopped goes on. Then
what trains is chosen: no duplicates, nothing that an evaluation asks. OUT gets shards of ArrayRecord, quarantine.jsonl,
where each record that cannot be read or decoded stands and why, and last manifest.json. Of a record a few numbers are
in memory, never its media.
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
    """A dataset that cannot be built here; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How a dataset is built. Recorded in its manifest."""

    near: float | None = None  # the share that two records have in common on both sides to be one; None = equality
    against: tuple[pathlib.Path, ...] = ()  # datasets to evaluate on: what their queries are is left out of training


def build(path: pathlib.Path, out: pathlib.Path, options: Options, workers: int) -> dict[str, Any]:
    """Builds OUT from a spec, or goes on; returns its manifest, also where it is there already.

    Raises BuildError where OUT holds something else or a split has no record, StorageError where another process builds
    there, and as `spec.load` does.
    """
    if out.resolve() in (source.resolve() for source in (path, *options.against)):
        raise BuildError(f"{out} is read here: give another folder to build in")
    made, manifest = spec.load(path), out / "manifest.json"
    asked = {"spec": _fingerprint(path), "near": options.near, "against": [str(other) for other in options.against]}
    with lock.lock_folder(out):
        if not manifest.exists():
            _build(path, made, out, options, asked, workers)
        about = parse_json(manifest.read_bytes(), str(manifest))
    if {key: about.get(key) for key in asked} != asked:
        raise BuildError(f"{out} holds a dataset of another spec or other options: give another folder")
    return about


def _build(
    path: pathlib.Path, made: spec.Spec, out: pathlib.Path, options: Options, asked: dict[str, Any], workers: int
) -> None:
    """Writes OUT, its manifest last."""
    work = out / ".parts"
    splits = _part_jobs(path, made, work, options)
    evaluations = {f"its own {name}": jobs for name, jobs in splits.items() if is_eval_split(name)}
    for number, other in enumerate(options.against):
        found = _part_jobs(other, spec.load(other), work / f"against{number}", options)
        evaluations |= {f"{name} of {other}": jobs for name, jobs in found.items() if is_eval_split(name)}

    begun = work / "asked.json"
    work.mkdir(exist_ok=True)
    if begun.exists() and parse_json(begun.read_bytes(), str(begun)) != asked:
        raise BuildError(f"{work} is of another spec or other options: delete it, or give another folder")
    with storage.atomic_write(begun) as file:
        file.write_text(json.dumps(asked), encoding="utf-8")
    every = [job for jobs in (*splits.values(), *evaluations.values()) for job in jobs]
    read_parts(list(dict.fromkeys(every)), workers)

    written = {name: _split(name, jobs, evaluations, out, options) for name, jobs in splits.items()}
    about: dict[str, Any] = {"source": made.source, "licence": made.licence, "task": made.task} | asked
    about |= {"counts": {name: one["records"] for name, one in written.items()}, "splits": written}
    if made.qrels is not None:
        about["judgements"] = _judgements(made.qrels, out)
    with storage.atomic_write(out / "quarantine.jsonl") as file, file.open("wb") as lines:
        lines.writelines(job.file(".quarantine").read_bytes() for jobs in splits.values() for job in jobs)
    with storage.atomic_write(out / "manifest.json") as file:
        file.write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    shutil.rmtree(work)


def is_eval_split(split: str) -> bool:
    """Whether the queries of a split are what a model is scored by."""
    return "train" not in split and split != "corpus"


def _fingerprint(path: pathlib.Path) -> str:
    """A hash of a spec's file, or of the names, sizes and times of a folder's own files, hidden ones aside."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    files = [p for p in sorted(path.iterdir()) if p.is_file() and not p.name.startswith(".")]
    listed = [f"{p.name} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in files]
    return hashlib.sha256("\n".join(listed).encode()).hexdigest()


def _part_jobs(path: pathlib.Path, made: spec.Spec, work: pathlib.Path, options: Options) -> dict[str, list[PartJob]]:
    """The parts of every split. Raises BuildError where a split has none."""
    near = options.near is not None
    if empty := [name for name, parts in made.splits.items() if not parts]:
        raise BuildError(f"{empty[0]}: it is empty: {path} has no record of it")
    return {
        name: [PartJob(path, name, i, work / name / f"{i:06}", near) for i in range(len(parts))]
        for name, parts in made.splits.items()
    }


def _split(
    name: str,
    jobs: Sequence[PartJob],
    evaluations: Mapping[str, Sequence[PartJob]],
    out: pathlib.Path,
    options: Options,
) -> dict[str, Any]:
    """Chooses and writes a split; what the manifest says of it. Raises BuildError where there is nothing."""
    quarantined = collections.Counter(
        _reason(json.loads(line)) for job in jobs for line in job.file(".quarantine").read_bytes().splitlines()
    )
    sizes = _column(jobs, "sizes")
    if not len(sizes):
        if not quarantined:
            raise BuildError(f"{name}: it is empty")
        raise BuildError(f"{name}: no record can be read; the commonest reason: {quarantined.most_common(1)[0][0]}")
    about: dict[str, Any] = {"read": len(sizes) + quarantined.total(), "quarantined": dict(quarantined.most_common())}
    keep = np.ones(len(sizes), bool)
    if "train" in name:
        for why, bad in _filters(jobs, evaluations, options):
            about[why] = int((keep & bad).sum())
            keep &= ~bad
    about["records"] = int(keep.sum())
    for key in ("langs", "kinds"):
        found = (_column([job], key)[own].tolist() for job, own in _slices(jobs, keep))
        counts = collections.Counter(itertools.chain.from_iterable(found))
        about[key] = {value: n for value, n in counts.most_common() if value}
    return about | {"shards": _write(name, jobs, keep, out)}


def _reason(line: dict[str, str]) -> str:
    """What is wrong with a record, without what is its own: where it stands, names and numbers."""
    why = line["why"].removeprefix(line["where"]).removeprefix(": ")
    return re.sub(r"\d[\d,.]*", "N", re.sub(r"'[^']*'|/\S+:\d+", "…", why))


def _filters(
    jobs: Sequence[PartJob], evaluations: Mapping[str, Sequence[PartJob]], options: Options
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields why records are not trained on, and which, bool[n]."""
    hashes, least = _column(jobs, "hashes"), options.near
    yield "duplicates", ~first_occurrence(hashes.reshape(-1, 4))
    if least is not None:
        signatures = _signatures(jobs)
        yield "near duplicates", ~near_first_occurrence(signatures, least)
    for name, others in evaluations.items():
        asked = np.ascontiguousarray(_column(others, "hashes")[:, 0]).view(np.uint64)
        found = np.isin(hashes.view(np.uint64)[..., 0], asked)
        if least is not None:
            queries = _signatures(others)[:, 0]
            for side in range(2):
                found[:, side] |= contains_near_duplicate(signatures[:, side], queries, least)
        # the positive of a class is its name, which may well be a query of it too
        yield f"asked by {name}", found[:, 0] | (found[:, 1] & ~_column(jobs, "labelled"))


def _column(jobs: Sequence[PartJob], field: str) -> np.ndarray:
    """What is known of the records of some parts, of one kind."""
    found = []
    for job in jobs:
        with load_info(job) as of_part:
            found.append(of_part[field])
    return np.concatenate(found)


def _signatures(jobs: Sequence[PartJob]) -> np.ndarray:
    """u32[n,2,128] in a file beside the parts: they may be larger than memory."""
    counts = [len(_column([job], "sizes")) for job in jobs]
    file = jobs[0].stem.with_name("signatures.npy")
    found = np.lib.format.open_memmap(file, "w+", np.uint32, (sum(counts), 2, NUM_HASHES))
    for job, stop, count in zip(jobs, np.cumsum(counts), counts, strict=True):
        found[stop - count : stop] = _column([job], "signatures")
    return found


def _slices(jobs: Sequence[PartJob], keep: np.ndarray) -> Iterator[tuple[PartJob, np.ndarray]]:
    """Yields each part with its share of `keep`."""
    start = 0
    for job in jobs:
        stop = start + len(_column([job], "sizes"))
        yield job, keep[start:stop]
        start = stop


def _write(name: str, jobs: Sequence[PartJob], keep: np.ndarray, out: pathlib.Path) -> list[dict[str, Any]]:
    """The shards of a split, of whose records `keep` are kept; what the manifest says of each."""
    hidden = not sys.stderr.isatty()
    records = tqdm(_bytes(jobs, keep), total=int(keep.sum()), desc=f"writing {name}", unit="record", disable=hidden)
    shards = []
    for path in write_shards(out, name, records):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        count = len(ArrayRecordSource(path))
        shards.append({"name": path.name, "records": count, "bytes": path.stat().st_size, "sha256": digest})
    return shards


def _bytes(jobs: Sequence[PartJob], keep: np.ndarray) -> Iterator[bytes]:
    """Yields the records that are kept, in order."""
    for job, own in _slices(jobs, keep):
        if own.any():
            source = ArrayRecordDataSource([str(job.file(".array_record"))])
            yield from (source[int(i)] for i in np.flatnonzero(own))


def _judgements(path: storage.Path, out: pathlib.Path) -> dict[str, int]:
    """Writes qrels.tsv, without the lines whose query or document is not there; how many there are of both."""
    queries, corpus = ({record.id for record in read_records(open_split(out, name))} for name in ("queries", "corpus"))
    known = read_judgments(path, queries, corpus)
    with storage.atomic_write(out / "qrels.tsv") as file:
        lines = (f"{query}\t{document}\t{grade}\n" for query, document, grade in known)
        file.write_text("".join(lines), encoding="utf-8")
    return {"records": len(known), "lost": sum(1 for _ in read_qrels(path)) - len(known)}
