"""Entries of a file in an index: one for the file, or one per piece where the file exceeds an input's limits."""

from collections.abc import Callable, Iterator
from typing import Any

from embed.data.files import read_file
from embed.data.media.pdf import split_pdf
from embed.data.modalities import Pdf, Text
from embed.data.pieces import LimitError, Piece
from embed.distributed import storage

MAX_CHARACTERS = 2**22  # of a text that is split: a long novel, some two hundred pieces of English


def read_entries(path: storage.Path, to_pieces: Callable[[Any], list[Piece]]) -> Iterator[tuple[str, list[Piece]]]:
    """Yield the suffix of each entry's name ("" for a whole file) and the pieces of its input.

    A PDF is split every six pages (`#page=7`). A text that is too long is split at the last line break (else space,
    else character) before its middle, and so are its halves: `#line=412`, or `#line=1,column=90001` inside a line, both
    counted from 1. `to_pieces` decodes an item (`Embedder.pieces`).

    Raises ValueError (LimitError for a text of more than 4,194,304 characters) and OSError, as `to_pieces` does too.
    """
    part = read_file(path)
    match part:
        case Pdf(data):
            pages = split_pdf(data)
            if len(pages) == 1:
                yield "", to_pieces(part)
                return
            for first, last, piece in pages:
                yield f"#page={first}", to_pieces([f"pages {first} to {last}", Pdf(piece)])
        case Text(text):
            if len(text) > MAX_CHARACTERS:
                raise LimitError(
                    f"a text of {len(text):,} characters; at most {MAX_CHARACTERS:,} are indexed: split it"
                )
            for start, stop, pieces in _split_until_fits(text, 0, len(text), to_pieces):
                yield "" if stop - start == len(text) else _locate(text, start), pieces
        case _:
            yield "", to_pieces(part)


def _split_until_fits(
    text: str, start: int, stop: int, to_pieces: Callable[[Any], list[Piece]]
) -> Iterator[tuple[int, int, list[Piece]]]:
    """Yield (start, stop, pieces) of text[start:stop], split in halves until each fits."""
    try:
        pieces = to_pieces(text[start:stop])
    except LimitError:
        if stop - start < 2:
            raise
        cut = _find_cut(text, start, stop)
        yield from _split_until_fits(text, start, cut, to_pieces)
        yield from _split_until_fits(text, cut, stop, to_pieces)
    else:
        yield start, stop, pieces


def _find_cut(text: str, start: int, stop: int) -> int:
    middle = (start + stop) // 2
    for mark in ("\n", " "):
        if cut := text.rfind(mark, (start + middle) // 2, middle) + 1:
            return cut
    return middle


def _locate(text: str, start: int) -> str:
    line = text.count("\n", 0, start) + 1
    column = start - text.rfind("\n", 0, start)
    return f"#line={line}" if column == 1 else f"#line={line},column={column}"
