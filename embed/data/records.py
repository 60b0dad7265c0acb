"""One record schema: a pair whose sides are lists of parts in order, in plain text and in bytes.

The plain-text form is a JSON object, media beside it by relative path; the binary form is msgpack, media inside. Both
give the same `Record`.
"""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import msgpack
import numpy as np

from embed import storage


class RecordError(ValueError):
    """A record that cannot be read; the message names the file, the record and the field."""


@dataclasses.dataclass(frozen=True)
class Text:
    text: str


@dataclasses.dataclass(frozen=True)
class Image:
    data: bytes = dataclasses.field(repr=False)  # an encoded file: PNG, JPEG, WebP, ...


@dataclasses.dataclass(frozen=True)
class Audio:
    data: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Video:
    data: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Pdf:
    data: bytes = dataclasses.field(repr=False)


Part = Text | Image | Audio | Video | Pdf
Content = tuple[Part, ...]
PART_KEYS: dict[str, type] = {"text": Text, "image": Image, "audio": Audio, "video": Video, "pdf": Pdf}
KEY_OF = {kind: key for key, kind in PART_KEYS.items()}
MAX_MEDIA_BYTES = 512 * 2**20


@dataclasses.dataclass(frozen=True)
class Record:
    """One training or test pair; an item of a corpus has no `positive`."""

    id: str
    query: Content
    positive: Content
    negatives: tuple[Content, ...] = ()
    lang: str = ""
    label: str = ""
    provenance: dict[str, str] = dataclasses.field(default_factory=dict)  # how it came about: file, model, prompt, ...


def content_hash(content: Content) -> np.ndarray:
    """64-bit content identity as u32[2]: equal parts in equal order, and nothing else, give equal words."""
    digest = hashlib.blake2b(digest_size=8)
    for part in content:
        data = part.text.encode() if isinstance(part, Text) else part.data
        digest.update(KEY_OF[type(part)].encode() + len(data).to_bytes(8, "little") + data)
    return np.frombuffer(digest.digest(), np.uint32)


def to_bytes(record: Record) -> bytes:
    """The record as one msgpack message, media included."""

    def pack(content: Content) -> list:
        return [[KEY_OF[type(part)], part.text if isinstance(part, Text) else part.data] for part in content]

    sides = [pack(record.query), pack(record.positive), [pack(negative) for negative in record.negatives]]
    return msgpack.packb([record.id, *sides, record.lang, record.label, record.provenance])


def from_bytes(data: bytes) -> Record:
    """Inverse of `to_bytes`. Raises RecordError where the bytes are not such a message."""

    def unpack(parts: list) -> Content:
        return tuple(PART_KEYS[key](value) for key, value in parts)

    try:
        name, query, positive, negatives, *rest = msgpack.unpackb(data)
        return Record(name, unpack(query), unpack(positive), tuple(map(unpack, negatives)), *rest)
    except (ValueError, TypeError, KeyError, msgpack.exceptions.UnpackException) as error:
        raise RecordError(f"not a record ({len(data)} bytes): {error!r}") from error


def parse_parts(value: Any, folder: storage.Path, where: str) -> Content:
    """A JSON list of parts -> Content, media read from `folder`. Raises RecordError, naming `where`."""
    if not isinstance(value, list) or not value:
        raise RecordError(f"{where}: expected a list of at least one part, got {str(value)[:80]!r}")
    return tuple(_parse_part(part, folder, f"{where}[{i}]") for i, part in enumerate(value))


def _parse_part(part: Any, folder: storage.Path, where: str) -> Part:
    keys = [key for key in PART_KEYS if key in part] if isinstance(part, dict) else []
    if len(keys) != 1 or not isinstance(part[keys[0]], str):
        raise RecordError(
            f"{where}: a part has exactly one of {', '.join(PART_KEYS)}, as a string; got {str(part)[:80]!r}"
        )
    value = part[keys[0]]
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can write "\ud800"
        raise RecordError(f"{where}: {keys[0]}: character {error.start} is half a surrogate pair") from error
    if keys[0] == "text":
        return Text(value)
    if "\0" in value:
        raise RecordError(f"{where}: {value!r} is not the name of a file")
    if not _inside(folder / value, folder):
        raise RecordError(f"{where}: {value!r} leaves the dataset folder {folder}")
    try:
        path = storage.local(folder / value)
        if path.stat().st_size > MAX_MEDIA_BYTES:
            raise RecordError(f"{where}: {value!r} is larger than {MAX_MEDIA_BYTES >> 20} MiB")
        return PART_KEYS[keys[0]](path.read_bytes())
    except storage.StorageError:
        raise  # of the bucket, not of the record
    except OSError as error:
        raise RecordError(f"{where}: cannot read {value!r}: {error.strerror or 'it is not there'}") from error


def _inside(path: storage.Path, folder: storage.Path) -> bool:
    if isinstance(path, pathlib.Path):
        return path.resolve().is_relative_to(folder.resolve())
    return path.is_relative_to(folder) and ".." not in path.parts  # a bucket has no links


def parse_json(line: bytes, where: str) -> dict[str, Any]:
    """One line -> its JSON object. Raises RecordError, naming `where`."""
    try:
        value = json.loads(line)
    except ValueError as error:
        raise RecordError(f"{where}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise RecordError(f"{where}: expected an object, got {type(value).__name__}")
    return value


def parse_line(line: bytes, folder: storage.Path, where: str) -> Record:
    """One JSONL line -> Record. Fields it does not know are ignored. Raises RecordError, naming `where`."""
    value = parse_json(line, where)
    negatives = value.get("negatives") or []
    if not isinstance(negatives, list):
        raise RecordError(f"{where}: negatives: expected a list of lists of parts")
    return Record(
        id=str(value.get("id", where)),
        query=parse_parts(value.get("query"), folder, f"{where}: query"),
        positive=parse_parts(value.get("positive"), folder, f"{where}: positive"),
        negatives=tuple(parse_parts(n, folder, f"{where}: negatives[{i}]") for i, n in enumerate(negatives)),
        lang=str(value.get("lang", "")),
        label=str(value.get("label", "")),
    )


def parse_item(line: bytes, folder: storage.Path, where: str) -> Record:
    """A line of a benchmark's corpus or queries, {"id", "content"}: a record without a positive. Raises RecordError."""
    value = parse_json(line, where)
    if "id" not in value:
        raise RecordError(f"{where}: expected an object with id and content")
    content = parse_parts(value.get("content"), folder, f"{where}: content")
    return Record(str(value["id"]), content, (), lang=str(value.get("lang", "")))


def parse_graded(line: bytes, folder: storage.Path, where: str) -> Record:
    """A line of graded similarity, {"a", "b", "score"}: the score is the record's label. Raises RecordError."""
    value = parse_json(line, where)
    if not isinstance(value.get("score"), int | float):
        raise RecordError(f"{where}: score: expected a number, got {str(value.get('score'))[:80]!r}")
    a, b = (parse_parts(value.get(side), folder, f"{where}: {side}") for side in ("a", "b"))
    return Record(str(value.get("id", where)), a, b, lang=str(value.get("lang", "")), label=str(value["score"]))
