"""PDF forms: what is filled in is drawn, as every viewer does, on the pages and on those of a piece."""

import numpy as np
import pytest
from test_media import raw_pdf

from embed.data.media.pdf import render_pdf, split_pdf

TEXT = b"/FT /Tx /Rect [10 50 190 90] /DA (/Helv 24 Tf 0 g) /V (%s)"
CHOICE = b"/FT /Ch /Ff 131072 /Rect [10 50 190 90] /DA (/Helv 24 Tf 0 g) /Opt [(ONE) (OTHER)] /V (%s)"
CHECKBOX = b"/FT /Btn /Rect [10 10 30 30] /AP <</N <</Yes 4 0 R /Off 5 0 R>>>> /AS /%s /V /%s"
DRAWN = b"/FT /Tx /Rect [10 10 30 30] /AP <</N 4 0 R>> /V (x)"  # with the stream that a viewer saved


def form_pdf(*fields: bytes, pages: int = 1) -> bytes:
    """A PDF with these fields on each page; text and choices have no appearance of their own."""
    first, places = 6, range(6 + pages, 6 + pages + pages * len(fields))
    refs = [b"%d 0 R" % place for place in places]
    kids = b" ".join(b"%d 0 R" % (first + page) for page in range(pages))
    form = b"<</Fields [%s] /DR <</Font <</Helv 3 0 R>>>> /DA (/Helv 12 Tf 0 g)>>" % b" ".join(refs)
    looks = [
        b"<</Type /XObject /Subtype /Form /BBox [0 0 20 20] /Length %d>> stream\n%s\nendstream"
        % (len(content), content)
        for content in (b"0 g 2 2 16 16 re f", b"")
    ]
    sheets = [
        b"<</Type /Page /Parent 2 0 R /MediaBox [0 0 200 100] /Annots [%s]>>"
        % b" ".join(refs[page * len(fields) : (page + 1) * len(fields)])
        for page in range(pages)
    ]
    widgets = [
        b"<</Type /Annot /Subtype /Widget /F 4 /T (f%d.%d) /P %d 0 R %s>>" % (page, number, first + page, field)
        for page in range(pages)
        for number, field in enumerate(fields)
    ]
    return raw_pdf(
        b"<</Type /Catalog /Pages 2 0 R /AcroForm %s>>" % form,
        b"<</Type /Pages /Kids [%s] /Count %d>>" % (kids, pages),
        b"<</Type /Font /Subtype /Type1 /BaseFont /Helvetica>>",
        *looks,
        *sheets,
        *widgets,
    )


def ink(page: np.ndarray) -> float:
    return float((page < 128).mean())


FILLED = {
    "text": (TEXT % b"ALICE", TEXT % b""),
    "choice": (CHOICE % b"OTHER", CHOICE % b""),
    "checkbox": (CHECKBOX % (b"Yes", b"Yes"), CHECKBOX % (b"Off", b"Off")),
    "drawn": (DRAWN, b"/FT /Tx /Rect [10 10 30 30]"),
}


@pytest.mark.parametrize("kind", FILLED)
def test_what_is_filled_in_is_drawn(kind):
    (filled,), (empty,) = (render_pdf(form_pdf(field), longest=400) for field in FILLED[kind])
    assert ink(filled) > ink(empty) + 0.01


def test_fields_hold_what_was_filled_in():
    (alice,), (bob,) = (render_pdf(form_pdf(TEXT % name), longest=400) for name in (b"ALICE", b"BOB"))
    assert (alice != bob).any()
    (red,) = render_pdf(form_pdf((TEXT % b"ALICE").replace(b"0 g", b"1 0 0 rg")), longest=400)
    assert np.allclose(red[red.min(axis=2) < 50].mean(axis=0), [255, 0, 0], atol=30)


@pytest.mark.parametrize("kind", FILLED)
def test_a_piece_of_a_long_form_shows_what_is_filled_in(kind):
    pages = 8
    for fields in FILLED[kind]:
        whole = form_pdf(fields, pages=pages)
        pieces = split_pdf(whole)
        assert [piece[:2] for piece in pieces] == [(1, 6), (7, 8)]
        expected = ink(render_pdf(whole, max_pages=pages, longest=400)[0])
        for page in (page for _, _, data in pieces for page in render_pdf(data, longest=400)):
            assert abs(ink(page) - expected) < 0.003
