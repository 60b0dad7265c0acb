"""Files that were made to break what reads them: none ends the process, takes long or much memory, or is lost.

Some hundred: whole ones of every kind, damaged; what is of another kind than its name says; and headers that promise
hours, gigapixels, or a gigabyte in a kilobyte.
"""

import json
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from PIL import Image as Pillow
from test_media import (
    PHOTO,
    PLAYLIST,
    POSTSCRIPT,
    TEXT,
    WHOLE,
    image_file,
    page_pdf,
    pdf_file,
    png_header,
    raw_pdf,
    video_file,
    wav,
)

from embed.data.build.dedup import decode_parts
from embed.data.media.decode import MediaError
from embed.data.modalities import BY_NAME
from embed.data.sources import open_split, read_records

SUFFIX = {"image": "png", "audio": "wav", "video": "mp4", "pdf": "pdf"}
SECONDS, MEMORY = 10, 2**30


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *more: bytes, pixels: bytes | None = None) -> bytes:
    """A PNG of gray, its pixels one compressed run unless they are given."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    rows = zlib.compress(bytes((width + 1) * height), 9) if pixels is None else pixels
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def flac_of_hours(hours: int) -> bytes:
    """The header of a FLAC of so many hours, and nothing after it."""
    total = hours * 3600 * 44_100
    info = struct.pack(">HH", 4096, 4096) + bytes(6) + ((44_100 << 44) | (15 << 36) | total).to_bytes(8, "big")
    return b"fLaC" + b"\x80" + (len(info) + 16).to_bytes(3, "big") + info + bytes(16)


def gzip_bomb() -> bytes:
    return zlib.compress(bytes(2**28), 9)


def svg_bomb() -> bytes:
    entities = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
    return f'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY a0 "ha">{entities}]><svg>&a9;</svg>'.encode()


def bombs() -> list[tuple[str, str, bytes]]:
    """(name, kind, bytes): what promises or holds more than it should."""
    deep = b"[" * 100_000
    photo = image_file(PHOTO)
    found = [
        ("line of pixels", "image", png(100_000, 1)),
        ("column of pixels", "image", png(1, 100_000)),
        ("63 megapixels", "image", png(7900, 7900)),
        ("63 megapixels, transparent", "image", image_file(Pillow.new("LA", (7900, 7900), 255), compress_level=1)),
        ("four gigapixels", "image", png(65_000, 65_000, pixels=b"")),
        ("header of 2**31 squared", "image", png_header(2**31 - 1, 2**31 - 1)),
        ("no pixels", "image", png(0, 0, pixels=b"")),
        ("text of a quarter gigabyte", "image", png(8, 8, chunk(b"zTXt", b"x\0\0" + gzip_bomb()))),
        ("profile of a quarter gigabyte", "image", png(8, 8, chunk(b"iCCP", b"x\0\0" + gzip_bomb()))),
        ("more pixels than said", "image", png(8, 8, pixels=gzip_bomb())),
        ("entities", "image", svg_bomb()),
        (
            "a TIFF that points at itself",
            "image",
            b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 330, 4, 1, 8) + b"\x08\0\0\0",
        ),
        ("a GIF of 65535 squared", "image", b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(8)),
        ("two images in one", "image", photo + photo),
        ("ten hours of WAV", "audio", wav(claim=10 * 3600 * 32_000)),
        ("ten hours of FLAC", "audio", flac_of_hours(10)),
        ("no rate", "audio", wav(rate=0)),
        ("rate of a gigahertz", "audio", wav(rate=10**9)),
        ("60000 channels", "audio", wav(channels=60_000)),
        ("floats of 1000 bits", "audio", wav(bits=1000)),
        ("no sound", "audio", wav(size=0)),
        ("large frames", "video", video_file(range(8), shape=(4096, 2304), preset="ultrafast")),
        ("too large frames", "video", video_file(range(2), shape=(4098, 2306), preset="ultrafast")),
        ("a still of an hour", "video", video_file([0, 3599])),
        ("a still of a day", "video", video_file([0, 86_400])),
        ("locked", "pdf", raw_pdf(b"<</Type /Catalog>>", trailer=b"/Encrypt <</Filter /Standard /V 1 /R 2 /P -4>>")),
        ("1000 pages", "pdf", pdf_file(*[(100, 100)] * 1000)),
        ("page of a hair", "pdf", pdf_file((0.001, 14_400))),
        ("page of 1e9 points", "pdf", pdf_file((1e9, 1e9))),
        (
            "pages that are their own parents",
            "pdf",
            raw_pdf(b"<</Type /Catalog /Pages 2 0 R>>", b"<</Type /Pages /Kids [2 0 R] /Count 9>>"),
        ),
        ("deep arrays", "pdf", page_pdf(deep)),
        ("a page of a million states", "pdf", page_pdf(b"q " * 10**6)),
        (
            "JavaScript",
            "pdf",
            raw_pdf(
                b"<</Type /Catalog /OpenAction <</S /JavaScript /JS (while(1);)>> /Pages 2 0 R>>",
                b"<</Type /Pages /Kids [] /Count 0>>",
            ),
        ),
    ]
    return found


def files() -> list[tuple[str, str, bytes]]:
    """All of them."""
    rng, found = np.random.default_rng(0), bombs()
    for kind in SUFFIX:
        for name, data in (
            ("empty", b""),
            ("text", TEXT),
            ("playlist", PLAYLIST),
            ("PostScript", POSTSCRIPT),
            ("noise", rng.bytes(5000)),
            ("zeros", bytes(5000)),
            ("zip", b"PK\x03\x04" + bytes(60)),
            ("page", b"<html><script>1</script></html>"),
        ):
            found.append((f"{name} as {kind}", kind, data))
        for name, (other, data) in WHOLE.items():
            if other != kind:
                found.append((f"{name} as {kind}", kind, data))
    for name, (kind, data) in WHOLE.items():
        found.append((f"whole {name}", kind, data))
        for n in range(8):
            found.append((f"{name} cut {n}", kind, data[: len(data) * (n + 1) // 10]))
            flipped = np.frombuffer(data, np.uint8).copy()
            at = rng.integers(len(data) if n % 2 else min(len(data), 100), size=3)
            flipped[at] ^= (1 << rng.integers(8, size=3)).astype(np.uint8)
            found.append((f"{name} flipped {n}", kind, flipped.tobytes()))
    return found


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_none_takes_long_or_ends_in_another_error():
    seconds = {}
    for name, kind, data in files():
        begin = time.perf_counter()
        try:
            decode_parts((BY_NAME[kind].part(data),))
        except MediaError as error:
            assert len(str(error)) > 20, name
        seconds[name] = time.perf_counter() - begin
    assert len(seconds) >= 300 and max(seconds.values()) < SECONDS, max(seconds, key=seconds.__getitem__)


MEASURED = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
sys.exit(done.returncode)
"""


def test_a_build_counts_each_by_its_reason_in_little_memory(tmp_path):
    lines = []
    for number, (name, kind, data) in enumerate(files()):
        (tmp_path / f"{number}.{SUFFIX[kind]}").write_bytes(data)
        lines.append({"id": name, "query": [{"text": name}], "positive": [{kind: f"{number}.{SUFFIX[kind]}"}]})
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    build = [sys.executable, "-m", "embed", "build", str(tmp_path), str(tmp_path / "out"), "--workers=1"]
    done = subprocess.run([sys.executable, "-c", MEASURED, *build], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split("peak")[1]) < MEMORY
    about = json.loads((tmp_path / "out" / "manifest.json").read_text())["splits"]["train"]
    kept = {record.id for record in read_records(open_split(tmp_path / "out", "train"))}
    reasons = about["quarantined"]
    assert about["read"] == len(lines) and len(kept) + sum(reasons.values()) + about["duplicates"] == len(lines)
    assert len(reasons) > 15 and not any("crashes the process" in why for why in reasons)
    assert {f"whole {name}" for name in WHOLE} <= kept
    assert (
        not {"ten hours of WAV", "ten hours of FLAC", "locked", "1000 pages", "four gigapixels", "too large frames"}
        & kept
    )
    told = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert len(told) == sum(reasons.values()) and all(line["where"] and line["why"] for line in told)
