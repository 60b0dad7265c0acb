"""Parse the plain-text form of records: a line of JSON, media beside it by relative path."""

import json
import pathlib
import reprlib
import stat
import sys
from typing import Any

from embed.data.modalities import BY_NAME, Content, Part, Text
from embed.data.records import MAX_MEDIA_BYTES, Record, RecordError, check_unicode, to_list, to_string
from embed.data.textfile import decode_text
from embed.distributed import storage


def parse_line(line: bytes, folder: storage.Path, location: str) -> Record:
    """Parse a line of training pairs, {"query", "positive", ...}; unknown fields are ignored.

    Media are read from `folder`. Raises RecordError, naming `location`.
    """
    value = parse_json(line, location)
    negatives = to_list(value.get("negatives"), f"{location}: negatives")
    return Record(
        id=to_string(value.get("id"), f"{location}: id") or location,
        query=parse_parts(value.get("query"), folder, f"{location}: query"),
        positive=parse_parts(value.get("positive"), folder, f"{location}: positive"),
        negatives=tuple(parse_parts(parts, folder, f"{location}: negatives[{i}]") for i, parts in enumerate(negatives)),
        lang=to_string(value.get("lang"), f"{location}: lang"),
        label=to_string(value.get("label"), f"{location}: label"),
    )


def parse_item(line: bytes, folder: storage.Path, location: str) -> Record:
    """Parse a line of a benchmark's corpus or queries, {"id", "content"}: a record without a positive.

    Raises RecordError, naming `location`.
    """
    value = parse_json(line, location)
    if value.get("id") is None:
        raise RecordError(f"{location}: expected an object with id and content")
    content = parse_parts(value.get("content"), folder, f"{location}: content")
    lang = to_string(value.get("lang"), f"{location}: lang")
    return Record(to_string(value["id"], f"{location}: id"), content, (), lang=lang)


def parse_graded(line: bytes, folder: storage.Path, location: str) -> Record:
    """Parse a line of graded similarity, {"a", "b", "score"}; the record's label is the score.

    Raises RecordError, naming `location`.
    """
    value = parse_json(line, location)
    score = value.get("score")
    if not isinstance(score, int | float) or isinstance(score, bool) or not abs(score) <= sys.float_info.max:
        raise RecordError(f"{location}: score: expected a finite number, got {reprlib.repr(score)}")
    return Record(
        id=to_string(value.get("id"), f"{location}: id") or location,
        query=parse_parts(value.get("a"), folder, f"{location}: a"),
        positive=parse_parts(value.get("b"), folder, f"{location}: b"),
        lang=to_string(value.get("lang"), f"{location}: lang"),
        label=str(score),
    )


def parse_beir(line: bytes, folder: storage.Path, location: str) -> Record:
    """Parse a line of BEIR's corpus.jsonl or queries.jsonl; a title becomes the text's first line.

    Raises RecordError, naming `location`.
    """
    value = parse_json(line, location)
    text, title = value.get("text"), value.get("title")
    if value.get("_id") is None or not isinstance(text, str) or not isinstance(title, str | None):
        raise RecordError(f"{location}: expected an object with _id and text, and maybe title, as strings")
    titled = "\n".join(part for part in (title, text) if part)
    check_unicode(titled, f"{location}: text")
    return Record(to_string(value["_id"], f"{location}: _id"), (Text(titled),), ())


def parse_json(line: bytes, location: str) -> dict[str, Any]:
    """Parse one line to its JSON object. Raises RecordError, naming `location`."""
    try:
        value = json.loads(decode_text(line))
    except RecursionError as error:
        raise RecordError(f"{location}: not JSON: it is nested too deeply") from error
    except ValueError as error:
        raise RecordError(f"{location}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise RecordError(f"{location}: expected an object, got {type(value).__name__}")
    return value


def parse_parts(value: Any, folder: storage.Path, location: str) -> Content:
    """Parse a JSON list of parts, with media read from `folder`. Raises RecordError, naming `location`."""
    if not isinstance(value, list) or not value:
        raise RecordError(f"{location}: expected a list of at least one part, got {reprlib.repr(value)}")
    return tuple(_parse_part(part, folder, f"{location}[{i}]") for i, part in enumerate(value))


def _parse_part(part: Any, folder: storage.Path, location: str) -> Part:
    keys = [name for name in BY_NAME if part.get(name) is not None] if isinstance(part, dict) else []
    if len(keys) != 1 or not isinstance(part[keys[0]], str):
        raise RecordError(
            f"{location}: a part has exactly one of {', '.join(BY_NAME)}, as a string; got {reprlib.repr(part)}"
        )
    modality, value = BY_NAME[keys[0]], part[keys[0]]
    check_unicode(value, f"{location}: {modality.name}")
    return modality.part(value if modality.value is str else _read_media(value, folder, location))


def _read_media(name: str, folder: storage.Path, location: str) -> bytes:
    """Read a file inside `folder`. Raises RecordError, and StorageError where a bucket fails."""
    if "\0" in name:
        raise RecordError(f"{location}: {name!r} is not the name of a file")
    try:
        if not _is_inside(name, folder):
            raise RecordError(f"{location}: {name!r} leaves the dataset folder {folder}")
        path = storage.local(folder / name)
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise RecordError(f"{location}: {name!r} is not a file")
        if status.st_size > MAX_MEDIA_BYTES:
            raise RecordError(f"{location}: {name!r} is larger than {MAX_MEDIA_BYTES >> 20} MiB")
        return path.read_bytes()
    except storage.StorageError:  # an OSError too, but the bucket's fault and not the record's
        raise
    except OSError as error:
        raise RecordError(f"{location}: cannot read {name!r}: {error.strerror or 'no such file'}") from error


def _is_inside(name: str, folder: storage.Path) -> bool:
    if storage.is_remote(folder):  # no links; joining an absolute name differs between versions of the path library
        path = pathlib.PurePosixPath(name)
        return not path.is_absolute() and ".." not in path.parts and "://" not in name
    try:
        return (folder / name).resolve().is_relative_to(folder.resolve())
    except RuntimeError:  # a link that leads to itself, before Python 3.13
        return False
