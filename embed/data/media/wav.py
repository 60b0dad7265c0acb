"""Correct the sizes in a WAV's header, which writers to a pipe leave unknown; refuse truncated files."""

import struct

from embed.data.media.errors import MediaError

PAGE = 4096  # bytes; sizes so near 2 or 4 GiB mean "until the end": sox says 0x7ffff000, ffmpeg 0xffffffff


def restate_sizes(data: bytes) -> bytes:
    """Write the actual sizes into the header of a WAV that leaves them open, or has them in 64 bits (RF64).

    Anything else is returned unchanged. Raises MediaError where a WAV claims more audio than it has: libsndfile would
    silently return what is present.
    """
    if data[:4] not in (b"RIFF", b"RF64", b"BW64") or data[8:12] != b"WAVE":
        return data
    riff_size = int.from_bytes(data[4:8], "little")
    at, wide_size = 12, 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"ds64" and len(data) >= at + 24:  # the 64-bit sizes, used where the others are -1
            riff_size, wide_size = struct.unpack_from("<QQ", data, at + 8)
        if data[at : at + 4] == b"data":
            return _restate_data(data, at, wide_size if size == 2**32 - 1 and data[:2] != b"RI" else size, riff_size)
        at += 8 + size + size % 2
    return data


def _restate_data(data: bytes, at: int, claimed: int, riff_size: int) -> bytes:
    """Correct a WAV whose chunk of samples begins at `at` and claims `claimed` bytes."""
    start = at + 8
    available = len(data) - start
    is_open_ended = (
        not riff_size or _is_unknown(riff_size) or riff_size + 8 == start
    )  # or written before the first sample
    if (not claimed and is_open_ended) or _is_unknown(claimed):
        size = available if is_open_ended else riff_size + 8 - start
    else:
        size = claimed
    if not size and available:
        raise MediaError(f"WAV claims no audio but has {available:,} bytes of it: its header is wrong, save it again")
    if size > available:
        raise MediaError(f"WAV claims {size:,} bytes of audio but has {available:,}: the file is truncated")
    if size == claimed and data[:4] == b"RIFF":
        return data
    head = data[12:at].replace(b"ds64", b"JUNK", 1)
    sizes = struct.pack("<4sI", b"data", size)
    return struct.pack("<4sI4s", b"RIFF", 4 + len(head) + 8 + size, b"WAVE") + head + sizes + data[start : start + size]


def _is_unknown(size: int) -> bool:
    return abs(size - 2**31) <= PAGE or abs(size - 2**32) <= PAGE or size == 2**64 - 1
