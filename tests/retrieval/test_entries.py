"""A long file in an index: cut where a reader can find it, nothing lost, every piece within the limit."""

import io

import pypdfium2
import pytest

from embed.data.budget import num_tokens
from embed.data.modalities import Part, Text
from embed.data.pieces import MAX_TOKENS, LimitError, TextPiece
from embed.data.preprocess import make_pieces
from embed.retrieval import entries
from embed.retrieval.entries import read_entries

LINES = "".join(f"line {number} holds {number * number}\n" for number in range(1, 3001))


@pytest.fixture
def to_pieces(preprocessor):
    """As `Embedder.pieces`, at the true limit."""

    def decode_item(item):
        parts = [Text(part) if isinstance(part, str) else part for part in (item if isinstance(item, list) else [item])]
        pieces = make_pieces(tuple(part for part in parts if isinstance(part, Part)), preprocessor)
        num_tokens(pieces, preprocessor.tokenizer)
        return pieces

    return decode_item


def ids(pieces) -> list[int]:
    return [number for piece in pieces if isinstance(piece, TextPiece) for number in piece.ids]


def test_a_text_that_fits_is_whole(tmp_path, to_pieces):
    (tmp_path / "a.txt").write_text("a red square")
    assert list(read_entries(tmp_path / "a.txt", to_pieces)) == [("", to_pieces("a red square"))]


def test_a_long_text_is_cut_at_lines(tmp_path, to_pieces, preprocessor):
    (tmp_path / "a.txt").write_text(LINES)
    with pytest.raises(LimitError):
        to_pieces(LINES)
    found = list(read_entries(tmp_path / "a.txt", to_pieces))
    first = [int(name.removeprefix("#line=")) for name, _ in found]
    assert first[0] == 1 and first == sorted(set(first)) and len(first) > 2
    lines = LINES.splitlines(keepends=True)
    for start, stop, (_, pieces) in zip(first, [*first[1:], len(lines) + 1], found, strict=True):
        assert ids(pieces) == preprocessor.tokenizer.encode("".join(lines[start - 1 : stop - 1]))
        assert MAX_TOKENS / 8 < num_tokens(pieces, preprocessor.tokenizer) <= MAX_TOKENS


@pytest.mark.parametrize("text", ["猫" * 20_000, "a red square " * 4000, "\n\n" + "x y" * 8000])
def test_a_long_line_is_cut_at_columns(tmp_path, to_pieces, preprocessor, text):
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    found = list(read_entries(tmp_path / "a.txt", to_pieces))
    assert len(found) > 1 and found[0][0] == "#line=1"
    starts = []
    for name, _ in found:
        line, _, column = name.removeprefix("#line=").partition(",column=")
        before = sum(len(one) for one in text.splitlines(keepends=True)[: int(line) - 1])
        starts.append(before + int(column or 1) - 1)
    assert starts == sorted(set(starts))
    for start, stop, (_, pieces) in zip(starts, [*starts[1:], len(text)], found, strict=True):
        assert ids(pieces) == preprocessor.tokenizer.encode(text[start:stop])
    if " " in text:
        assert all(text[start - 1].isspace() for start in starts[1:])


def test_a_text_of_more_than_the_limit_is_refused(tmp_path, to_pieces, monkeypatch):
    monkeypatch.setattr(entries, "MAX_CHARACTERS", 50_000)
    (tmp_path / "a.txt").write_text(LINES)
    with pytest.raises(LimitError, match=f"a text of {len(LINES):,} characters; at most 50,000 are indexed: split it"):
        list(read_entries(tmp_path / "a.txt", to_pieces))


def test_a_long_pdf_is_cut_at_pages(tmp_path, to_pieces):
    file, document = io.BytesIO(), pypdfium2.PdfDocument.new()
    for _ in range(8):
        document.new_page(200, 150)
    document.save(file)
    (tmp_path / "a.pdf").write_bytes(file.getvalue())
    assert [name for name, _ in read_entries(tmp_path / "a.pdf", to_pieces)] == ["#page=1", "#page=7"]
