"""Render the pages of a PDF, at most six (the API of Gemini Embedding 2); split longer documents."""

import contextlib
import io
import logging
import math
import threading
from collections.abc import Iterable

import numpy as np
import pypdfium2

from embed.data.media.errors import MediaError, as_media_error, check_bytes

PDF_SUFFIXES = frozenset({".pdf"})
MAX_PAGES = 6
MAX_SPLIT = 2000  # pages of a document to be split
ERRORS = (pypdfium2.PdfiumError,)
logging.getLogger("pypdfium2").setLevel(logging.ERROR)  # its warnings (of XFA forms) do not name the file
pdfium = threading.Lock()  # the library is not thread-safe


def render_pdf(data: bytes, max_pages: int = MAX_PAGES, longest: int = 1536) -> list[np.ndarray]:
    """Render the pages of a PDF, u8[h,w,3] on white, each with a longer side of `longest` pixels.

    Raises MediaError, also where the file asks for a password or has more than `max_pages` pages.
    """
    check_bytes("a PDF", data)
    with as_media_error("a PDF", "a PDF", ERRORS), pdfium, contextlib.closing(_open(data)) as document:
        if not 1 <= len(document) <= max_pages:
            raise MediaError(f"PDF of {len(document)} pages: 1 to {max_pages} can be embedded; split it")
        return [_render(document, number, longest) for number in range(len(document))]


def _render(document: pypdfium2.PdfDocument, number: int, longest: int) -> np.ndarray:
    with contextlib.closing(document[number]) as page:
        width, height = page.get_size()
        if not (width > 0 and height > 0 and math.isfinite(width + height)):
            raise MediaError(f"PDF page {number + 1} is {width} by {height} points: save it again")
        with contextlib.closing(page.render(scale=longest / max(width, height), rev_byteorder=True)) as bitmap:
            return np.array(bitmap.to_numpy()[..., :3])


def _open(data: bytes) -> pypdfium2.PdfDocument:
    try:
        document = pypdfium2.PdfDocument(data)
        document.init_forms()  # before pages are read, or filled-in forms are not drawn
        return document
    except pypdfium2.PdfiumError as error:
        reason = "asks for a password: save it without" if "assword" in str(error) else f"cannot be read ({error})"
        raise MediaError(f"PDF of {len(data):,} bytes {reason}") from error


def split_pdf(data: bytes, max_pages: int = MAX_PAGES) -> list[tuple[int, int, bytes]]:
    """Split a PDF into (first page, last page, both from 1; a PDF of these), `max_pages` pages each.

    A short enough PDF stays as it is. Raises MediaError as `render_pdf` does, and above 2,000 pages.
    """
    check_bytes("a PDF", data)
    with as_media_error("a PDF", "a PDF", ERRORS), pdfium, contextlib.closing(_open(data)) as document:
        count = len(document)
        if not 1 <= count <= MAX_SPLIT:
            raise MediaError(f"PDF of {count:,} pages: 1 to {MAX_SPLIT:,} can be split")
        if count <= max_pages:
            return [(1, count, data)]
        pieces = []
        for first in range(0, count, max_pages):
            last, out = min(first + max_pages, count), io.BytesIO()
            if document.formenv:
                _flatten(document, range(first, last))
            with contextlib.closing(pypdfium2.PdfDocument.new()) as piece:
                piece.import_pages(document, list(range(first, last)))
                piece.save(out)
            pieces.append((first + 1, last, out.getvalue()))
        return pieces


def _flatten(document: pypdfium2.PdfDocument, numbers: Iterable[int]) -> None:
    """Merge filled-in forms into their pages: importing a page leaves its form behind."""
    for number in numbers:
        with contextlib.closing(document[number]) as page:
            if page.flatten() == pypdfium2.raw.FLATTEN_FAIL:
                raise MediaError(f"the form on PDF page {number + 1} cannot be drawn: print it to a PDF")
