"""What a WAV's header says of its size: right, cut short, or unknown, as writers to a pipe leave it."""

import struct

from embed.data.media.errors import MediaError

PAGE = 4096  # bytes; sizes so near 2 or 4 GiB mean "until the end": sox says 0x7ffff000, ffmpeg 0xffffffff


def restate_sizes(data: bytes) -> bytes:
    """A WAV whose header leaves its sizes open, or keeps them in 64 bits (RF64) -> the same with the sizes it has.

    Anything else comes back as it is. Raises MediaError where a WAV claims more sound than it has: libsndfile would
    silently give what is there.
    """
    if data[:4] not in (b"RIFF", b"RF64", b"BW64") or data[8:12] != b"WAVE":
        return data
    whole = int.from_bytes(data[4:8], "little")
    at, wide = 12, 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"ds64" and len(data) >= at + 24:  # the sizes in 64 bits, for where the others are -1
            whole, wide = struct.unpack_from("<QQ", data, at + 8)
        if data[at : at + 4] == b"data":
            return _restate_data(data, at, wide if size == 2**32 - 1 and data[:2] != b"RI" else size, whole)
        at += 8 + size + size % 2
    return data


def _restate_data(data: bytes, at: int, claimed: int, whole: int) -> bytes:
    """`restate_sizes` of a WAV whose chunk of samples begins at `at` and claims to have `claimed` bytes."""
    start = at + 8
    there = len(data) - start
    open_ended = not whole or _is_unknown(whole) or whole + 8 == start  # or written before the first sample
    if (not claimed and open_ended) or _is_unknown(claimed):
        size = there if open_ended else whole + 8 - start
    else:
        size = claimed
    if not size and there:
        raise MediaError(
            f"a WAV that claims no sound and has {there:,} bytes of it: its header is wrong, save it again"
        )
    if size > there:
        raise MediaError(f"a WAV that claims {size:,} bytes of sound and has {there:,}: it is cut short")
    if size == claimed and data[:4] == b"RIFF":
        return data
    head = data[12:at].replace(b"ds64", b"JUNK", 1)
    sizes = struct.pack("<4sI", b"data", size)
    return struct.pack("<4sI4s", b"RIFF", 4 + len(head) + 8 + size, b"WAVE") + head + sizes + data[start : start + size]


def _is_unknown(size: int) -> bool:
    return abs(size - 2**31) <= PAGE or abs(size - 2**32) <= PAGE or size == 2**64 - 1
