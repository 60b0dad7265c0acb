"""The record: a training pair whose sides are lists of parts in order, and its binary form.

The binary form is one msgpack message with the media inside; the plain-text form is embed/data/jsonl.py. Both give the
same `Record`. A null field counts as absent.
"""

import dataclasses
import hashlib
import math
import numbers
import reprlib
from typing import Any

import msgpack
import numpy as np

from embed.data.modalities import BY_NAME, Content, bytes_of, is_part, modality_of, value_of

MAX_MEDIA_BYTES = 512 * 2**20


class RecordError(ValueError):
    """A record that cannot be read; the message names the file, the record and the field."""


@dataclasses.dataclass(frozen=True)
class Record:
    """One training or test pair; an item of a corpus has no `positive`."""

    id: str
    query: Content
    positive: Content
    negatives: tuple[Content, ...] = ()
    lang: str = ""
    label: str = ""
    provenance: dict[str, str] = dataclasses.field(default_factory=dict)  # its origin: file, model, prompt, ...


def content_hash(content: Content) -> np.ndarray:
    """Hash a content to 64 bits, u32[2]: only equal parts in equal order give equal words."""
    digest = hashlib.blake2b(digest_size=8)
    for part in content:
        data = bytes_of(part)
        digest.update(modality_of(part).name.encode() + len(data).to_bytes(8, "little") + data)
    return np.frombuffer(digest.digest(), np.uint32)


def to_bytes(record: Record) -> bytes:
    """Encode a record as one msgpack message, media included."""
    negatives = [_pack(negative) for negative in record.negatives]
    fields = [record.id, _pack(record.query), _pack(record.positive), negatives]
    return msgpack.packb([*fields, record.lang, record.label, record.provenance])


def _pack(content: Content) -> list[list[str | bytes]]:
    return [[modality_of(part).name, value_of(part)] for part in content]


def from_bytes(data: bytes, location: str = "a record") -> Record:
    """Decode what `to_bytes` encoded. Raises RecordError, naming `location`, for anything else."""
    try:
        fields = msgpack.unpackb(data)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise RecordError(f"{location}: not a record ({len(data)} bytes): {error!r}") from error
    if not isinstance(fields, list) or not 4 <= len(fields) <= 7:
        raise RecordError(f"{location}: not a record ({len(data)} bytes): {reprlib.repr(fields)}")
    name, query, positive, packed_negatives, *optional = fields
    negatives = tuple(
        _unpack(parts, f"{location}: negatives[{i}]")
        for i, parts in enumerate(to_list(packed_negatives, f"{location}: negatives"))
    )
    sides = _unpack(query, f"{location}: query"), _unpack(positive, f"{location}: positive")
    return validate(Record(name, *sides, negatives, *optional), location)


def _unpack(parts: Any, location: str) -> Content:
    if not isinstance(parts, list):
        raise RecordError(f"{location}: expected a list of parts, got {reprlib.repr(parts)}")
    for part in parts:
        if not isinstance(part, list) or len(part) != 2 or part[0] not in tuple(BY_NAME):
            raise RecordError(f"{location}: expected parts, got {reprlib.repr(part)}")
    return tuple(BY_NAME[name].part(value) for name, value in parts)


def validate(record: Record, location: str) -> Record:
    """Check a record that a reader made, with null fields made empty and numbers made strings.

    `location` becomes the id of a record without one. Raises RecordError, naming it and the field, for a field of
    another type.
    """
    if not isinstance(record, Record):
        raise TypeError(f"{location}: expected a Record, got {type(record).__name__}")
    negatives = () if record.negatives is None else record.negatives
    _check_content(record.query, f"{location}: query")
    _check_content(record.positive, f"{location}: positive")
    for i, negative in enumerate(negatives):
        _check_content(negative, f"{location}: negatives[{i}]")
    if not record.query:
        raise RecordError(f"{location}: query: it has no part")
    provenance = record.provenance or {}
    if not isinstance(provenance, dict):
        raise RecordError(f"{location}: provenance: expected names and values, got {reprlib.repr(provenance)}")
    field = f"{location}: provenance"
    return Record(
        to_string(record.id, f"{location}: id") or location,
        tuple(record.query),
        tuple(record.positive),
        tuple(map(tuple, negatives)),
        to_string(record.lang, f"{location}: lang"),
        to_string(record.label, f"{location}: label"),
        {to_string(key, field): to_string(value, field) for key, value in provenance.items()},
    )


def _check_content(content: Any, location: str) -> None:
    if not isinstance(content, tuple | list):
        raise RecordError(f"{location}: expected a tuple of parts, got {reprlib.repr(content)}")
    for i, part in enumerate(content):
        if not is_part(part):
            raise RecordError(f"{location}[{i}]: expected a part, got {reprlib.repr(part)}")
        modality, value = modality_of(part), value_of(part)
        if not isinstance(value, modality.value):
            expected = "a string" if modality.value is str else "bytes"
            raise RecordError(f"{location}[{i}]: {modality.name}: expected {expected}, got {reprlib.repr(value)}")
        if isinstance(value, str):
            check_unicode(value, f"{location}[{i}]: {modality.name}")


def check_unicode(text: str, location: str) -> None:
    """Raise RecordError for half a surrogate pair, which JSON can write ("\\ud800") and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RecordError(f"{location}: character {error.start} is half a surrogate pair") from error


def read_score(record: Record, location: str) -> float:
    """Read the score of a graded pair, its label. Raises RecordError where that is not a finite number."""
    try:
        score = float(record.label)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise RecordError(f"{location}: label: expected the score of a graded pair, got {reprlib.repr(record.label)}")
    return score


def to_string(value: Any, location: str) -> str:
    """Read a string, a number or null (""). Raises RecordError for anything else."""
    if value is None:
        return ""
    if not isinstance(value, str | numbers.Number):
        raise RecordError(f"{location}: expected a string or a number, got {reprlib.repr(value)}")
    text = str(value)
    check_unicode(text, location)
    return text


def to_list(value: Any, location: str) -> list:
    """Read a list or null ([]). Raises RecordError for anything else."""
    if value is not None and not isinstance(value, list):
        raise RecordError(f"{location}: expected a list of lists of parts, got {reprlib.repr(value)}")
    return value or []
