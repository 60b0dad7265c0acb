"""One record schema: a pair whose sides are lists of parts in order, in plain text and in bytes.

The plain-text form is a JSON object, media beside it by relative path; the binary form is msgpack, media inside. Both
give the same `Record`. A field that is null is absent.
"""

import dataclasses
import hashlib
import json
import numbers
import pathlib
import reprlib
import stat
import sys
from typing import Any

import msgpack
import numpy as np

from embed.data.modalities import BY_NAME, Content, Part, Text, bytes_of, is_part, modality_of, value_of
from embed.data.textfile import decode_text
from embed.distributed import storage


class RecordError(ValueError):
    """A record that cannot be read; the message names the file, the record and the field."""


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
        data = bytes_of(part)
        digest.update(modality_of(part).name.encode() + len(data).to_bytes(8, "little") + data)
    return np.frombuffer(digest.digest(), np.uint32)


def to_bytes(record: Record) -> bytes:
    """The record as one msgpack message, media included."""

    def pack(content: Content) -> list:
        return [[modality_of(part).name, value_of(part)] for part in content]

    sides = [pack(record.query), pack(record.positive), [pack(negative) for negative in record.negatives]]
    return msgpack.packb([record.id, *sides, record.lang, record.label, record.provenance])


def from_bytes(data: bytes, where: str = "a record") -> Record:
    """Inverse of `to_bytes`. Raises RecordError, naming `where`, where the bytes are not such a message."""

    def unpack(parts: Any, field: str) -> Content:
        if not isinstance(parts, list):
            raise RecordError(f"{where}: {field}: expected a list of parts, got {reprlib.repr(parts)}")
        for part in parts:
            if not isinstance(part, list) or len(part) != 2 or part[0] not in tuple(BY_NAME):
                raise RecordError(f"{where}: {field}: expected parts, got {reprlib.repr(part)}")
        return tuple(BY_NAME[name].part(value) for name, value in parts)

    try:
        fields = msgpack.unpackb(data)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise RecordError(f"{where}: not a record ({len(data)} bytes): {error!r}") from error
    if not isinstance(fields, list) or not 4 <= len(fields) <= 7:
        raise RecordError(f"{where}: not a record ({len(data)} bytes): {reprlib.repr(fields)}")
    name, query, positive, negatives, *rest = fields
    others = tuple(unpack(parts, f"negatives[{i}]") for i, parts in enumerate(_list(negatives, f"{where}: negatives")))
    return validate(Record(name, unpack(query, "query"), unpack(positive, "positive"), others, *rest), where)


def validate(record: Record, where: str) -> Record:
    """The record that a reader's own function made, its null fields absent, its numbers strings; `where` is its id if
    it has none. Raises RecordError, naming `where` and the field, where a field is of another type."""
    if not isinstance(record, Record):
        raise TypeError(f"{where}: expected a Record, got {type(record).__name__}")
    negatives = () if record.negatives is None else record.negatives
    for field, content in (
        ("query", record.query),
        ("positive", record.positive),
        *((f"negatives[{i}]", negative) for i, negative in enumerate(negatives)),
    ):
        _check_content(content, f"{where}: {field}")
    if not record.query:
        raise RecordError(f"{where}: query: it has no part")
    provenance = record.provenance or {}
    if not isinstance(provenance, dict):
        raise RecordError(f"{where}: provenance: expected names and values, got {reprlib.repr(provenance)}")
    return Record(
        _string(record.id, f"{where}: id") or where,
        tuple(record.query),
        tuple(record.positive),
        tuple(map(tuple, negatives)),
        _string(record.lang, f"{where}: lang"),
        _string(record.label, f"{where}: label"),
        {_string(key, f"{where}: provenance"): _string(provenance[key], f"{where}: provenance") for key in provenance},
    )


def _check_content(content: Any, where: str) -> None:
    if not isinstance(content, tuple | list):
        raise RecordError(f"{where}: expected a tuple of parts, got {reprlib.repr(content)}")
    for i, part in enumerate(content):
        if not is_part(part):
            raise RecordError(f"{where}[{i}]: expected a part, got {reprlib.repr(part)}")
        modality, value = modality_of(part), value_of(part)
        if not isinstance(value, modality.value):
            expected = "a string" if modality.value is str else "bytes"
            raise RecordError(f"{where}[{i}]: {modality.name}: expected {expected}, got {reprlib.repr(value)}")
        if isinstance(value, str):
            _check_unicode(value, f"{where}[{i}]: {modality.name}")


def _check_unicode(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON can write "\ud800"
        raise RecordError(f"{where}: character {error.start} is half a surrogate pair") from error


def _string(value: Any, where: str) -> str:
    """A string, or a number as one; null as "". Raises RecordError."""
    if value is None:
        return ""
    if not isinstance(value, str | numbers.Number):
        raise RecordError(f"{where}: expected a string or a number, got {reprlib.repr(value)}")
    text = str(value)
    _check_unicode(text, where)
    return text


def _list(value: Any, where: str) -> list:
    """A list; null as an empty one. Raises RecordError."""
    if value is not None and not isinstance(value, list):
        raise RecordError(f"{where}: expected a list of lists of parts, got {reprlib.repr(value)}")
    return value or []


def parse_parts(value: Any, folder: storage.Path, where: str) -> Content:
    """A JSON list of parts -> Content, media read from `folder`. Raises RecordError, naming `where`."""
    if not isinstance(value, list) or not value:
        raise RecordError(f"{where}: expected a list of at least one part, got {reprlib.repr(value)}")
    return tuple(_parse_part(part, folder, f"{where}[{i}]") for i, part in enumerate(value))


def _parse_part(part: Any, folder: storage.Path, where: str) -> Part:
    given = {name: part[name] for name in BY_NAME if part.get(name) is not None} if isinstance(part, dict) else {}
    if len(given) != 1 or not all(isinstance(value, str) for value in given.values()):
        raise RecordError(
            f"{where}: a part has exactly one of {', '.join(BY_NAME)}, as a string; got {reprlib.repr(part)}"
        )
    [(key, value)] = given.items()
    _check_unicode(value, f"{where}: {key}")
    if key == "text":
        return Text(value)
    if "\0" in value:
        raise RecordError(f"{where}: {value!r} is not the name of a file")
    try:
        if not _is_inside(value, folder):
            raise RecordError(f"{where}: {value!r} leaves the dataset folder {folder}")
        path = storage.local(folder / value)
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise RecordError(f"{where}: {value!r} is not a file")
        if about.st_size > MAX_MEDIA_BYTES:
            raise RecordError(f"{where}: {value!r} is larger than {MAX_MEDIA_BYTES >> 20} MiB")
        return BY_NAME[key].part(path.read_bytes())
    except storage.StorageError:
        raise  # of the bucket, not of the record
    except OSError as error:
        raise RecordError(f"{where}: cannot read {value!r}: {error.strerror or 'it is not there'}") from error


def _is_inside(name: str, folder: storage.Path) -> bool:
    if storage.is_remote(folder):  # which has no links; what a path makes of an absolute name depends on its version
        path = pathlib.PurePosixPath(name)
        return not path.is_absolute() and ".." not in path.parts and "://" not in name
    try:
        return (folder / name).resolve().is_relative_to(folder.resolve())
    except RuntimeError:  # of a link that leads to itself, before Python 3.13
        return False


def parse_json(line: bytes, where: str) -> dict[str, Any]:
    """One line -> its JSON object. Raises RecordError, naming `where`."""
    try:
        value = json.loads(decode_text(line))
    except RecursionError as error:
        raise RecordError(f"{where}: not JSON: it is nested too deeply") from error
    except ValueError as error:
        raise RecordError(f"{where}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise RecordError(f"{where}: expected an object, got {type(value).__name__}")
    return value


def parse_line(line: bytes, folder: storage.Path, where: str) -> Record:
    """One JSONL line -> Record. Fields it does not know are ignored. Raises RecordError, naming `where`."""
    value = parse_json(line, where)
    negatives = _list(value.get("negatives"), f"{where}: negatives")
    return Record(
        id=_string(value.get("id"), f"{where}: id") or where,
        query=parse_parts(value.get("query"), folder, f"{where}: query"),
        positive=parse_parts(value.get("positive"), folder, f"{where}: positive"),
        negatives=tuple(parse_parts(n, folder, f"{where}: negatives[{i}]") for i, n in enumerate(negatives)),
        lang=_string(value.get("lang"), f"{where}: lang"),
        label=_string(value.get("label"), f"{where}: label"),
    )


def parse_item(line: bytes, folder: storage.Path, where: str) -> Record:
    """A line of a benchmark's corpus or queries, {"id", "content"}: a record without a positive. Raises RecordError."""
    value = parse_json(line, where)
    if value.get("id") is None:
        raise RecordError(f"{where}: expected an object with id and content")
    content = parse_parts(value.get("content"), folder, f"{where}: content")
    lang = _string(value.get("lang"), f"{where}: lang")
    return Record(_string(value["id"], f"{where}: id"), content, (), lang=lang)


def parse_graded(line: bytes, folder: storage.Path, where: str) -> Record:
    """A line of graded similarity, {"a", "b", "score"}: the score is the record's label. Raises RecordError."""
    value = parse_json(line, where)
    score = value.get("score")
    if not isinstance(score, int | float) or isinstance(score, bool) or not abs(score) <= sys.float_info.max:
        raise RecordError(f"{where}: score: expected a finite number, got {reprlib.repr(score)}")
    a, b = (parse_parts(value.get(side), folder, f"{where}: {side}") for side in ("a", "b"))
    name = _string(value.get("id"), f"{where}: id") or where
    return Record(name, a, b, lang=_string(value.get("lang"), f"{where}: lang"), label=str(score))


def parse_beir(line: bytes, folder: storage.Path, where: str) -> Record:
    """A line of BEIR's corpus.jsonl or queries.jsonl, its title as a first line. Raises RecordError."""
    value = parse_json(line, where)
    text, title = value.get("text"), value.get("title")
    if value.get("_id") is None or not isinstance(text, str) or not isinstance(title, str | None):
        raise RecordError(f"{where}: expected an object with _id and text, and maybe title, as strings")
    whole = "\n".join(part for part in (title, text) if part)
    _check_unicode(whole, f"{where}: text")
    return Record(_string(value["_id"], f"{where}: _id"), (Text(whole),), ())
