"""Read a file as a part: by its name as media, else as text; its bytes must agree with its name."""

import pathlib

from embed.data.media.binary import sniff_binary
from embed.data.media.decode import has_video
from embed.data.modalities import AUDIO, MODALITIES, VIDEO, Part, Text
from embed.data.records import MAX_MEDIA_BYTES
from embed.data.textfile import decode_text
from embed.distributed import storage

SHARED_SUFFIXES = frozenset(
    {".ts", ".mts", ".mod"}
)  # of videos, but also of TypeScript and Go modules: the bytes decide
MEDIA_SUFFIXES: frozenset[str] = frozenset().union(*(modality.suffixes for modality in MODALITIES)) - SHARED_SUFFIXES


def read_file(path: storage.Path) -> Part:
    """Read a file as an image, audio, video, PDF or text; a video container without video is audio.

    Raises ValueError for a file of another kind, an empty or too large one, or one whose name and bytes disagree;
    MediaError for a broken video; OSError for an unreadable file.
    """
    data = _read_bytes(path)
    suffix = path.suffix.lower()
    binary = sniff_binary(data)
    if not binary and (suffix in SHARED_SUFFIXES or suffix not in MEDIA_SUFFIXES):
        return _to_text(path, data)
    if not binary and _is_text(data):
        raise ValueError(f"{path} holds text, but its name ends in {suffix}: rename it")
    modality = next((modality for modality in MODALITIES if suffix in modality.suffixes), None)
    if modality is None:
        raise ValueError(
            f"{path} holds {binary}, but its name is not that of an image, audio, video or PDF file: rename it if it "
            "is one, or save a text as UTF-8"
        )
    if modality is VIDEO and not has_video(data):
        modality = AUDIO
    return modality.part(data)


def _read_bytes(path: storage.Path) -> bytes:
    file = storage.local(path)
    if file.exists() and not file.is_file():  # reading a pipe could block forever
        raise ValueError(f"{path} is not a file")
    if file.stat().st_size > MAX_MEDIA_BYTES:
        raise ValueError(f"{path} is larger than {MAX_MEDIA_BYTES >> 20} MiB")
    data = file.read_bytes()
    if not data:
        raise ValueError(f"{path} is an empty file")
    return data


def _to_text(path: storage.Path, data: bytes) -> Text:
    try:
        text = decode_text(data)
    except ValueError as error:
        raise ValueError(f"{path}: neither a known media file nor text: {error}") from error
    if not text:
        raise ValueError(f"{path} is an empty file")
    return Text(text)


def _is_text(data: bytes) -> bool:
    try:
        decode_text(data)
    except ValueError:
        return False
    return True


def is_media(name: str) -> bool:
    """Whether the name alone says that a file is media."""
    return pathlib.PurePath(name).suffix.lower() in MEDIA_SUFFIXES
