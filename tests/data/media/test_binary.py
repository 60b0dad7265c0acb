"""Known binary files by their first bytes, so that none is embedded as text; and no text is taken for one."""

import bz2
import gzip
import io
import lzma
import pickle
import sqlite3
import struct
import sys
import tarfile
import zipfile

import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import safetensors.numpy
from PIL import Image as Pillow
from test_media import PHOTO, TEXT, av_sound, image_file, pdf_file, sine, sound_file, video_file

from embed.data.media.binary import sniff_binary


def zip_file() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("a.txt", "a")
    return file.getvalue()


def tar_file() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as out:
        out.addfile(tarfile.TarInfo("a.txt"), io.BytesIO())
    return file.getvalue()


def npy_file() -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(9))
    return file.getvalue()


def table(write) -> bytes:
    file = io.BytesIO()
    write(pa.table({"a": [1, 2, 3]}), file)
    return file.getvalue()


def arrow_file(rows: pa.Table, file: io.BytesIO) -> None:
    with pa.ipc.new_file(file, rows.schema) as out:
        out.write_table(rows)


def database() -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.execute("create table a (b)")
    return connection.serialize()


def font() -> bytes:
    return open(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", "rb").read()


def program() -> bytes:
    return open(sys.executable, "rb").read(9000)


TONE = sine(440, 0.2, 16_000)
KINDS = {
    "zip": zip_file(),
    "gzip": gzip.compress(TEXT),
    "bzip2": bz2.compress(TEXT),
    "xz": lzma.compress(TEXT),
    "zstd": b"\x28\xb5\x2f\xfd\x24\x05\x29\0\0abc",
    "7z": b"7z\xbc\xaf\x27\x1c\0\x04" + bytes(24),
    "RAR": b"Rar!\x1a\x07\x01\0" + bytes(24),
    "tar": tar_file(),
    "program": program(),
    "Windows program": b"MZ\x90\0" + bytes(60) + b"\x0e\x1f\xba\x0eThis program cannot be run in DOS mode",
    "Java class": b"\xca\xfe\xba\xbe\0\0\0\x34",
    "WebAssembly": b"\0asm\x01\0\0\0",
    "SQLite": database(),
    "HDF5": b"\x89HDF\r\n\x1a\n\0",
    "NumPy": npy_file(),
    "pickle": pickle.dumps({"a": [1, 2, 3]}),
    "safetensors": safetensors.numpy.save({"a": np.zeros(3)}),
    "Parquet": table(pyarrow.parquet.write_table),
    "Arrow": table(arrow_file),
    "GGUF": b"GGUF\x03\0\0\0" + bytes(16),
    "font": font(),
    "PDF": pdf_file((9, 9)),
    "Office": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16),
    "PNG": image_file(PHOTO),
    "JPEG": image_file(PHOTO, "JPEG"),
    "GIF": image_file(PHOTO, "GIF"),
    "WebP": image_file(PHOTO, "WEBP"),
    "TIFF": image_file(PHOTO, "TIFF"),
    "bitmap": image_file(PHOTO, "BMP"),
    "JPEG 2000": image_file(PHOTO, "JPEG2000"),
    "AVIF": image_file(PHOTO, "AVIF"),
    "WAV": sound_file(TONE, 16_000),
    "FLAC": sound_file(TONE, 16_000, "FLAC"),
    "AIFF": sound_file(TONE, 16_000, "AIFF"),
    "Ogg": sound_file(TONE, 16_000, "OGG", "VORBIS"),
    "MP3": sound_file(TONE, 16_000, "MP3"),
    "AAC": av_sound("adts", "aac"),
    "MP4": video_file([0, 1]),
    "WebM": video_file([0, 1], "webm", "libvpx"),
    "AVI": video_file([0, 1], "avi", "mpeg4"),
    "MPEG transport": video_file([0, 1], "mpegts"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_known_binary_is_named(kind):
    name = sniff_binary(KINDS[kind])
    assert kind.lower() in name.lower() and "NUL" not in name


def test_a_pickle_of_any_protocol_that_is_not_text_is_named():
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        for value in ([1], {"a": 1}, (1, "a"), "a", 3.5, print):
            assert "pickle" in sniff_binary(pickle.dumps(value, protocol)), (protocol, value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\nb\r\n\tc\f",
        "RIFF is a container. WAVEfmt comes next; the moov atom, OggS, ID3, BZh, GGUF, PAR1 and PK are magic.",
        "RIFFs and more",
        "BM is a short name, BMW a longer one",
        "MZ: This program is a text",
        "ID3 trees",
        "The moov atom",
        "OggS",
        "fLaC",
        "GIF89a",
        "PK\x1b[1mbold\x1b[0m",
        '{"a": 1}',
        "ÿþ café 猫 🐈" * 3000,
        "x" * 8191 + "é",
    ],
)
def test_a_text_is_not_taken_for_a_binary(text):
    assert sniff_binary(text.encode()) == ""


def test_a_text_of_utf16_that_says_so_is_left_to_its_reader():
    for coding in ("utf-16", "utf-32", "utf-8-sig"):
        assert sniff_binary("text".encode(coding)) == ""


def test_what_has_nul_bytes_is_no_text():
    assert "NUL" in sniff_binary(b"a text\0" + TEXT)
    assert "NUL" in sniff_binary(TEXT + bytes(9))
    assert "NUL" in sniff_binary(struct.pack("<20f", *range(20)))


def test_other_encodings_are_left_to_the_reader():
    assert sniff_binary("ein Stück für Flöte".encode("latin-1")) == ""
    assert sniff_binary(Pillow.new("L", (9, 9)).tobytes().replace(b"\0", b"a")) == ""
