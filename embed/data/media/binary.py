"""Recognize binary files by their first bytes, so that none is taken for text."""

import codecs
import re

SNIFF_BYTES = 8192  # bytes at the start
CONTROL = re.compile(rb"[\x00-\x06\x0e-\x1a\x1c-\x1f\x7f]")
KINDS: tuple[tuple[str, int, bytes], ...] = (
    ("a PNG image", 0, b"\x89PNG\r\n\x1a\n"),
    ("a JPEG image", 0, b"\xff\xd8\xff"),
    ("a GIF image", 0, b"GIF87a"),
    ("a GIF image", 0, b"GIF89a"),
    ("a TIFF image", 0, b"II*\0"),
    ("a TIFF image", 0, b"MM\0*"),
    ("a JPEG 2000 image", 0, b"\0\0\0\x0cjP  \r\n\x87\n"),
    ("a JPEG 2000 image", 0, b"\xff\x4f\xff\x51"),
    ("a JPEG XL image", 0, b"\xff\x0a"),
    ("a JPEG XL image", 0, b"\0\0\0\x0cJXL \r\n\x87\n"),
    ("a Photoshop image", 0, b"8BPS"),
    ("an OpenEXR image", 0, b"v/1\x01"),
    ("a DjVu document", 0, b"AT&TFORM"),
    ("a PDF", 0, b"%PDF-"),
    ("a WebP image", 8, b"WEBPVP8"),
    ("a WAV audio file", 8, b"WAVEfmt "),
    ("an AVI video", 8, b"AVI LIST"),
    ("a RIFF file", 0, b"RIFF"),
    ("an AIFF audio file", 8, b"AIFF"),
    ("a FLAC audio file", 0, b"fLaC"),
    ("an Ogg audio file or video", 0, b"OggS"),
    ("an MP3 audio file", 0, b"ID3"),
    ("an AMR audio file", 0, b"#!AMR"),
    ("a CAF audio file", 0, b"caff\0\x01"),
    ("a MIDI file", 0, b"MThd\0\0\0\x06"),
    ("a Matroska or WebM video", 0, b"\x1aE\xdf\xa3"),
    ("an AVIF image", 4, b"ftypavi"),
    ("a HEIC image", 4, b"ftyphei"),
    ("a HEIC image", 4, b"ftypmif1"),
    ("an MP4 or MOV video", 4, b"ftyp"),
    ("a MOV video", 4, b"moov"),
    ("an MPEG video", 0, b"\0\0\x01\xba"),
    ("a Flash video", 0, b"FLV\x01"),
    ("a Windows media file", 0, b"0&\xb2u\x8ef\xcf\x11"),
    ("a zip archive (or a document, a wheel, an .npz in one)", 0, b"PK\x03\x04"),
    ("a zip archive", 0, b"PK\x05\x06"),
    ("a gzip archive", 0, b"\x1f\x8b"),
    ("a bzip2 archive", 0, b"BZh"),
    ("an xz archive", 0, b"\xfd7zXZ\0"),
    ("a zstd archive", 0, b"(\xb5/\xfd"),
    ("an lz4 archive", 0, b'\x04"M\x18'),
    ("a 7z archive", 0, b"7z\xbc\xaf'\x1c"),
    ("a RAR archive", 0, b"Rar!\x1a\x07"),
    ("a tar archive", 257, b"ustar"),
    ("an ar archive or Debian package", 0, b"!<arch>\n"),
    ("a cabinet", 0, b"MSCF\0\0\0\0"),
    ("an RPM package", 0, b"\xed\xab\xee\xdb"),
    ("an ELF program", 0, b"\x7fELF"),
    ("a Mach-O program", 0, b"\xfe\xed\xfa\xce"),
    ("a Mach-O program", 0, b"\xfe\xed\xfa\xcf"),
    ("a Mach-O program", 0, b"\xce\xfa\xed\xfe"),
    ("a Mach-O program", 0, b"\xcf\xfa\xed\xfe"),
    ("a Java class or Mach-O program", 0, b"\xca\xfe\xba\xbe"),
    ("a WebAssembly module", 0, b"\0asm"),
    ("LLVM bitcode", 0, b"BC\xc0\xde"),
    ("an SQLite database", 0, b"SQLite format 3\0"),
    ("an HDF5 file", 0, b"\x89HDF\r\n\x1a\n"),
    ("a NumPy array", 0, b"\x93NUMPY"),
    ("a Parquet table", 0, b"PAR1"),
    ("an Arrow table", 0, b"ARROW1\0\0"),
    ("an ORC table", 0, b"ORC\n"),
    ("an Avro table", 0, b"Obj\x01"),
    ("GGUF weights", 0, b"GGUF"),
    ("an old Office document", 0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
    ("a font", 0, b"wOFF"),
    ("a font", 0, b"wOF2"),
    ("a font", 0, b"OTTO\0"),
    ("a font", 0, b"\0\x01\0\0\0"),
    ("a font", 0, b"ttcf\0"),
    ("a git index", 0, b"DIRC\0"),
)
PATTERNS = (
    ("a pickle", re.compile(rb"\x80[\x02-\x05]")),
    ("a Windows program", re.compile(rb"MZ(?s:.){0,1022}?(PE\0\0|This program)")),
    ("safetensors weights", re.compile(rb"(?s:.){5}\0\0\0\{\"")),
    ("a bitmap image", re.compile(rb"BM(?s:.){4}\0\0\0\0")),
    ("an MP3 or AAC audio file", re.compile(rb"\xff[\xe2-\xff][\x10-\xee]")),
    ("an MPEG transport stream", re.compile(rb"G(?s:.){187}G(?s:.){187}G")),
)


MARKS = (b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")  # of UTF-16 and UTF-32


def sniff_binary(data: bytes) -> str:
    """What a file is, as "a gzip archive", if its first bytes are not those of a text; "" where they may be.

    UTF-8 without a control character is text, whatever it begins with, but for PDF; so is what has a byte-order mark.
    """
    head = data[:SNIFF_BYTES]
    if head.startswith(MARKS) or (_is_text(head) and not head.startswith(b"%PDF-")):
        return ""
    for name, at, magic in KINDS:
        if head.startswith(magic, at):
            return name
    for name, pattern in PATTERNS:
        if pattern.match(head):
            return name
    return "a binary file (it has NUL bytes)" if b"\0" in head else ""


def _is_text(head: bytes) -> bool:
    """Whether it is UTF-8 with no more control characters than terminals and printers take; its end may be cut."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return not CONTROL.search(head)
