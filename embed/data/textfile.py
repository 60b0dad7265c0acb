"""Decode the text of a file: UTF-8, or what a byte-order mark says. Other encodings are refused, never guessed."""

import codecs

MARKS = {  # UTF-32 before UTF-16: little-endian UTF-32's mark begins with UTF-16's
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
SAMPLE = 4096  # bytes whose zeros reveal a wide encoding


def decode_text(data: bytes) -> str:
    """Decode UTF-8, or the encoding of a byte-order mark, which is removed.

    Raises ValueError, with the likely encoding and what to do, for anything else.
    """
    mark = next((mark for mark in MARKS if data.startswith(mark)), b"")
    if not mark and (wide := _guess_wide(data)):
        raise ValueError(f"it seems to be {wide} without a byte-order mark; convert it: iconv -f {wide} -t UTF-8")
    encoding = MARKS[mark] if mark else "utf-8"
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        start = len(mark) + error.start
        raise ValueError(
            f"not {encoding.upper()} text: byte {data[start]:#04x} at {start} ({error.reason}); convert it from its "
            "encoding, for example iconv -f WINDOWS-1252 -t UTF-8"
        ) from error
    if "\0" in text:
        raise ValueError("not text: it holds zero bytes, as binary files do")
    return text


def wide_encoding(data: bytes) -> str | None:
    """Detect UTF-16 or UTF-32 at the beginning of `data`, with a byte-order mark or without; None for other text."""
    mark = next((mark for mark in MARKS if data.startswith(mark)), codecs.BOM_UTF8)
    return _guess_wide(data) if mark == codecs.BOM_UTF8 else MARKS[mark][:6].upper()


def _guess_wide(data: bytes) -> str | None:
    """Guess the wide encoding in which most characters at the beginning of `data` are Latin, or None."""
    zeros = tuple(2 * data[i:SAMPLE:4].count(0) > len(data[i:SAMPLE:4]) for i in range(4))
    wide: dict[tuple[bool, ...], str] = {
        (False, True, True, True): "UTF-32LE",
        (True, True, True, False): "UTF-32BE",
        (False, True, False, True): "UTF-16LE",
        (True, False, True, False): "UTF-16BE",
    }
    return wide.get(zeros)
