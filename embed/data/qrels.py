"""Relevance judgments of a benchmark: qrels.tsv in BEIR's or TREC's form."""

import logging
import re
from collections.abc import Container, Iterator

from embed.data.records import RecordError
from embed.data.textfile import decode_text
from embed.distributed import storage

log = logging.getLogger(__name__)
QRELS = "qrels.tsv"
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def read_qrels(path: storage.Path) -> Iterator[tuple[str, str, str, int]]:
    """Yield the judgments of a file: (file and line, query id, document id, grade).

    A line is BEIR's (query, document, grade, separated by tabs) or TREC's (query, iteration, document, grade, separated
    by tabs or spaces). A first line without a grade is a header. Fractional grades are truncated to integers, as
    trec_eval does, and logged. Raises RecordError, naming file and line.
    """
    try:
        lines = decode_text(path.read_bytes()).split("\n")
    except ValueError as error:
        raise RecordError(f"{path}: {error}") from error
    truncated: list[str] = []  # logged at INFO: the workers of a build, which read this again, do not show it
    first = next((number for number, line in enumerate(lines, start=1) if line.strip()), 0)
    for number, line in enumerate(lines, start=1):
        fields = line.strip("\r").split("\t") if "\t" in line else line.split()
        is_graded = len(fields) in (3, 4) and NUMBER.fullmatch(fields[-1].strip()) is not None
        is_header = number == first and len(fields) in (3, 4) and not is_graded
        if not line.strip() or is_header:
            continue
        if not is_graded:
            raise RecordError(
                f"{path}:{number}: expected query-id<TAB>corpus-id<TAB>relevance (a number), or TREC's four columns, "
                f"got {line[:80]!r}"
            )
        grade = float(fields[-1])
        if not abs(grade) < 2**31:
            raise RecordError(f"{path}:{number}: relevance {fields[-1].strip()} is out of range")
        if grade != int(grade):
            truncated.append(f"line {number}: {fields[-1].strip()} is {int(grade)}")
        yield f"{path}:{number}", fields[0], fields[-2], int(grade)
    if truncated:
        log.info("%s: %d grades are truncated to integers, as trec_eval does; %s", path, len(truncated), truncated[0])


def read_judgments(path: storage.Path, queries: Container[str], corpus: Container[str]) -> list[tuple[str, str, int]]:
    """Read the judgments (query id, document id, grade) whose ids are both known; the others are counted in the log.

    Raises RecordError as `read_qrels` does.
    """
    known: list[tuple[str, str, int]] = []
    dangling: list[str] = []
    for location, query, document, grade in read_qrels(path):
        if query in queries and document in corpus:
            known.append((query, document, grade))
        else:
            missing = f"query {query!r}" if query not in queries else f"document {document!r}"
            dangling.append(f"{location}: no {missing}")
    if dangling:
        total = len(known) + len(dangling)
        log.warning("%d of %d judgments are skipped; the first: %s", len(dangling), total, dangling[0])
    return known
