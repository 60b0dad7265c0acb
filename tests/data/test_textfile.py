"""Text is read right, whatever its byte-order mark says, or refused by a line that says what to do."""

import pytest

from embed.data.textfile import decode_text

TEXT = "größer als 猫 🐈\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_obeyed_and_is_no_part_of_the_text(encoding):
    assert decode_text(TEXT.encode(encoding)) == TEXT
    assert decode_text("".encode(encoding)) == ""


@pytest.mark.parametrize("mark, encoding", [(b"\xfe\xff", "utf-16-be"), (b"\0\0\xfe\xff", "utf-32-be")])
def test_big_endian_marks_are_obeyed(mark, encoding):
    assert decode_text(mark + TEXT.encode(encoding)) == TEXT


@pytest.mark.parametrize(
    "data, reason",
    [
        (TEXT[:10].encode("latin-1"), r"not UTF-8 text: byte 0xf6 at 2 .*iconv -f WINDOWS-1252 -t UTF-8"),
        ("“quoted”".encode("cp1252"), r"not UTF-8 text: byte 0x93 at 0 "),
        ("猫です".encode("shift-jis"), "not UTF-8 text"),
        ("plain words".encode("utf-16-le"), "seems to be UTF-16LE without a byte-order mark.*iconv -f UTF-16LE"),
        ("plain words, größer".encode("utf-16-be"), "seems to be UTF-16BE"),
        ("plain words".encode("utf-32-le"), "seems to be UTF-32LE"),
        ("plain words".encode("utf-32-be"), "seems to be UTF-32BE"),
        ("cut".encode("utf-16")[:-1], "not UTF-16-LE text"),
        ("\ud800".encode("utf-16", "surrogatepass"), "not UTF-16-LE text"),
        ("\ud800".encode(errors="surrogatepass"), "not UTF-8 text"),
        (b"PK\x03\x04 a zip \0\0 of text", "not text: it holds zero bytes"),
    ],
)
def test_what_is_not_text_is_refused_with_what_to_do(data, reason):
    with pytest.raises(ValueError, match=reason):
        decode_text(data)
