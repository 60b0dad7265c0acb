"""Media decoding: right pixels, samples and times from what is whole, a MediaError from everything else."""

import concurrent.futures
import fractions
import io
import struct
import time
import zlib
from collections.abc import Callable
from typing import Any, cast

import av
import numpy as np
import pypdfium2
import pytest
import soundfile
from PIL import Image as Pillow

from embed.data.media import decode, video
from embed.data.media.decode import MediaError, decode_audio, decode_image, decode_video
from embed.data.media.pdf import render_pdf, split_pdf

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (24, 32, 3), np.uint8)


def image_file(pixels: np.ndarray | Pillow.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Pillow.Image) else Pillow.fromarray(pixels)
    image.save(file, kind, **options)
    return file.getvalue()


def sine(hertz: float, seconds: float, rate: int) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def sound_file(samples: np.ndarray, rate: int, kind: str = "WAV", subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def wav(rate=16_000, channels=1, bits=16, size=3200, claim=None, riff=None, kind=1) -> bytes:
    """A WAV of `size` bytes of silence, with any header."""
    align = channels * bits // 8 & 0xFFFF
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, kind, channels, rate, rate * align & 0xFFFFFFFF, align, bits)
    head = struct.pack("<4sI4s", b"RIFF", 36 + size if riff is None else riff, b"WAVE")
    return head + form + struct.pack("<4sI", b"data", size if claim is None else claim) + bytes(size)


def av_sound(container: str, codec: str, seconds: float = 1.0, **options: str) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=options) as out:
        stream = cast(av.AudioStream, out.add_stream(codec, rate=48_000))
        stream.layout, stream.bit_rate = "mono", 64_000
        frame = av.AudioFrame.from_ndarray(sine(440, seconds, 48_000)[None], format="flt", layout="mono")
        frame.sample_rate, frame.pts = 48_000, 0
        fit = av.AudioResampler(stream.format.name, "mono", 48_000)
        for part in [*fit.resample(frame), *fit.resample(None), None]:
            out.mux(stream.encode(part))
    return file.getvalue()


def draw(index: int) -> np.ndarray:
    """Frame number `index` below 256, its two hexadecimal digits as gray levels above and below."""
    frame = np.zeros((32, 48, 3), np.uint8)
    frame[:16], frame[16:] = index % 16 * 16, index // 16 * 16
    return frame


def seen(frames: np.ndarray) -> list[int]:
    """Inverse of `draw`, of each frame."""
    low, high = (np.round(frames[:, rows, 4:-4].mean(axis=(1, 2, 3)) / 16) for rows in (slice(4, 12), slice(20, 28)))
    return (low + 16 * high).astype(int).tolist()


def video_file(times, container="mp4", codec="libx264", rotation=0, shape=None, index_first=False, **options) -> bytes:
    """A video whose frame i is shown from `times[i]` seconds; an MP4 has its index last, unless `index_first`."""
    file = io.BytesIO()
    muxing = {"moov_size": "20000"} if index_first else {}
    with av.open(file, "w", format=container, options=muxing) as out:
        stream = out.add_stream(codec, rate=30, options={"g": "12"} | options)
        stream.width, stream.height = shape or (48, 32)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = fractions.Fraction(1, 600)
        if rotation:
            stream.set_display_rotation(rotation)
        ticks = [round(at * 600) for at in times]
        ends = [*ticks[1:], 2 * ticks[-1] - ticks[-2] if len(ticks) > 1 else 600]
        for index, (start, end) in enumerate(zip(ticks, ends, strict=False)):
            pixels = draw(index) if shape is None else np.zeros((shape[1], shape[0], 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.duration, frame.time_base = start, end - start, fractions.Fraction(1, 600)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file.getvalue()


def pdf_file(*sizes: tuple[float, float]) -> bytes:
    document, file = pypdfium2.PdfDocument.new(), io.BytesIO()
    for size in sizes:
        document.new_page(*size)
    document.save(file)
    return file.getvalue()


def raw_pdf(*objects: bytes, trailer: bytes = b"") -> bytes:
    """A PDF of these objects, numbered from 1; the first is the catalog."""
    data, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(data))
        data += b"%d 0 obj %s endobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    head = b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    end = b"trailer <</Size %d /Root 1 0 R %s>>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, trailer, len(data))
    return data + head + table + end


def page_pdf(content: bytes, trailer: bytes = b"") -> bytes:
    stream = b"<</Length %d>> stream\n%s\nendstream" % (len(content), content)
    page = b"<</Type /Page /Parent 2 0 R /MediaBox [0 0 200 100] /Contents 4 0 R>>"
    return raw_pdf(
        b"<</Type /Catalog /Pages 2 0 R>>", b"<</Type /Pages /Kids [3 0 R] /Count 1>>", page, stream, trailer=trailer
    )


def png_header(width: int, height: int) -> bytes:
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))


DECODERS: dict[str, Callable[[bytes], Any]] = {
    "image": decode_image,
    "audio": decode_audio,
    "video": lambda data: decode_video(data, 32)[0],
    "pdf": lambda data: render_pdf(data, longest=200),
}
TEXT = b"It was a bright cold day in April, and the clocks were striking thirteen.\n" * 40
PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n"
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("data", [b"", b"\0", TEXT, PLAYLIST, POSTSCRIPT, bytes(5000), RNG.bytes(5000)])
def test_what_is_no_media_is_refused(kind, data):
    with pytest.raises(MediaError, match="the file is empty" if not data else "."):
        DECODERS[kind](data)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "JPEG2000"])
def test_an_image_gives_its_pixels(kind):
    pixels = decode_image(image_file(PHOTO, kind))
    assert pixels.dtype == np.uint8 and pixels.flags.writeable and (pixels == PHOTO).all()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
def test_a_lossy_image_gives_nearly_its_pixels(kind):
    smooth = np.linspace(0, 255, 32, dtype=np.uint8)[None, :, None].repeat(24, 0).repeat(3, 2)
    assert np.abs(decode_image(image_file(smooth, kind, quality=95)).astype(int) - smooth).max() < 12


@pytest.mark.parametrize(
    ("image", "options", "color"),
    [
        (Pillow.new("L", (3, 2), 77), {}, (77, 77, 77)),
        (Pillow.new("1", (3, 2), 1), {}, (255, 255, 255)),
        (Pillow.new("LA", (3, 2), (0, 51)), {}, (204, 204, 204)),
        (Pillow.new("RGBA", (3, 2), (255, 0, 0, 128)), {}, (255, 127, 127)),
        (Pillow.new("RGB", (3, 2), (1, 2, 3)), {"transparency": (1, 2, 3)}, (255, 255, 255)),
        (Pillow.new("RGB", (3, 2), (9, 8, 7)).convert("P"), {}, None),
        (Pillow.new("P", (3, 2), 0), {"transparency": 0}, (255, 255, 255)),
        (Pillow.fromarray(np.full((2, 3), 0xABCD, np.uint16)), {}, (0xAB, 0xAB, 0xAB)),
        (Pillow.new("CMYK", (3, 2), (0, 255, 255, 0)), {"format": "JPEG", "quality": 100}, (254, 0, 0)),
        (Pillow.new("RGB", (1, 1), (1, 2, 3)), {}, (1, 2, 3)),
        (Pillow.new("RGB", (1, 5000), (1, 2, 3)), {}, (1, 2, 3)),
    ],
)
def test_every_mode_becomes_rgb_over_white(image, options, color):
    options = dict(options)
    pixels = decode_image(image_file(image, options.pop("format", "PNG"), **options))
    assert pixels.shape == (image.height, image.width, 3) and pixels.dtype == np.uint8
    expected = np.asarray(image.convert("RGB"))[0, 0] if color is None else color
    assert np.abs(pixels.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_turned_photo_is_set_upright(orientation, kind):
    stored = {
        1: PHOTO,
        2: PHOTO[:, ::-1],
        3: PHOTO[::-1, ::-1],
        4: PHOTO[::-1],
        5: PHOTO.swapaxes(0, 1),
        6: np.rot90(PHOTO, 1),
        7: np.rot90(PHOTO, 2).swapaxes(0, 1),
        8: np.rot90(PHOTO, -1),
    }[orientation]
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    assert (decode_image(image_file(np.ascontiguousarray(stored), kind, exif=exif)) == PHOTO).all()


def test_an_animation_gives_its_first_frame():
    frames = [Pillow.new("RGB", (4, 4), color) for color in ("red", "blue")]
    for kind, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})):
        data = image_file(frames[0], kind, save_all=True, append_images=frames[1:], duration=100, **options)
        assert decode_image(data)[0, 0].tolist() == [255, 0, 0]


def test_broken_and_oversized_images_are_refused():
    whole = image_file(PHOTO)
    for size in (10, 40, len(whole) // 2, len(whole) - 30):
        with pytest.raises(MediaError):
            decode_image(whole[:size])
    for side in (9_000, 2**31 - 1):
        with pytest.raises(MediaError):
            decode_image(png_header(side, side) + bytes(100))
    with pytest.raises(MediaError, match="at most 64,000,000"):
        decode_image(png_header(8001, 8000) + struct.pack(">I4sI", 0, b"IDAT", 0))
    with pytest.raises(MediaError, match="32 bits"):
        decode_image(image_file(np.ones((4, 4), np.float32), "TIFF"))


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000, 192_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_sine_keeps_its_pitch_loudness_and_length(rate, channels):
    samples = decode_audio(sound_file(sine(440, 1, rate)[:, None].repeat(channels, 1), rate))
    assert samples.dtype == np.float32 and samples.shape == (16_000,)
    assert np.abs(np.fft.rfft(samples)).argmax() == 440
    assert abs(np.abs(samples[1000:-1000]).max() - 0.5) < 0.01


def test_channels_are_averaged_and_loud_samples_clipped():
    assert np.allclose(decode_audio(sound_file(np.tile([0.5, -0.25], (99, 1)), 16_000)), 0.125, atol=1e-4)
    assert decode_audio(sound_file(np.full(99, 3, np.float32), 16_000, subtype="FLOAT")).max() == 1


@pytest.mark.parametrize(
    "data",
    [
        sound_file(sine(440, 1, 16_000), 16_000, "FLAC"),
        sound_file(sine(440, 1, 16_000), 16_000, "OGG", "OPUS"),
        sound_file(sine(440, 1, 16_000), 16_000, "MP3"),
        *(av_sound(*kind) for kind in (("ipod", "aac"), ("adts", "aac"), ("webm", "libopus"), ("ogg", "flac"))),
    ],
    ids=["flac", "opus", "mp3", "m4a", "aac", "webm", "ogg-flac"],
)
def test_compressed_sound_is_decoded(data):
    samples = decode_audio(data)
    assert abs(len(samples) - 16_000) < 1600
    assert abs(np.abs(np.fft.rfft(samples[:16_000], 16_000)).argmax() - 440) <= 1


def test_a_sound_written_to_a_pipe_is_decoded():
    assert len(decode_audio(wav(claim=0xFFFFFFFF, riff=0xFFFFFFFF))) == 1600
    flac = bytearray(sound_file(sine(440, 1, 16_000), 16_000, "FLAC"))
    flac[21] &= 0xF0
    flac[22:26] = bytes(4)  # the 36 bits of the number of samples: unknown
    assert len(decode_audio(bytes(flac))) == 16_000


@pytest.mark.parametrize(
    "header",
    [
        {"claim": 2_000_000_000},
        {"claim": 3300},
        {"claim": 0},
        {"size": 0},
        {"rate": 0},
        {"rate": 1},
        {"rate": 4_000_000_000},
        {"channels": 0},
        {"channels": 1000, "size": 4000},
        {"channels": 65_535},
        {"bits": 0},
        {"kind": 999},
    ],
    ids=str,
)
def test_a_wav_whose_header_lies_is_refused(header):
    with pytest.raises(MediaError):
        decode_audio(wav(**header))


def test_broken_and_overlong_sounds_are_refused():
    assert len(decode_audio(sound_file(np.zeros(180 * 8000, np.float32), 8000))) == 180 * 16_000
    for kind in ("WAV", "FLAC"):
        with pytest.raises(MediaError, match="at most 180 s"):
            decode_audio(sound_file(np.zeros(181 * 8000, np.float32), 8000, kind))
    with pytest.raises(MediaError, match="longer than 180 s"):
        decode_audio(av_sound("webm", "libopus", 181))
    for value in (np.nan, np.inf):
        with pytest.raises(MediaError, match="not finite"):
            decode_audio(sound_file(np.array([0, value, 0], np.float32), 16_000, subtype="FLOAT"))
    for data in (
        sound_file(sine(440, 1, 16_000), 16_000),
        sound_file(sine(440, 1, 16_000), 16_000, "FLAC"),
        av_sound("mp4", "aac", 4, moov_size="20000"),
        av_sound("webm", "libopus", 4),
    ):
        with pytest.raises(MediaError):
            decode_audio(data[: len(data) // 2])
    with pytest.raises(MediaError, match="no audio stream"):
        decode_audio(video_file([0, 1]))


def test_sound_is_cut_to_frames():
    frames = decode.frame_audio(np.ones(1281, np.float32))
    assert frames.shape == (3, 640) and frames.dtype == np.float32 and frames.sum() == 1281 and frames[2, 0] == 1
    assert decode.frame_audio(np.ones(1280, np.float32)).shape == (2, 640)
    assert decode.frame_audio(np.ones(0, np.float32)).shape == (0, 640)


@pytest.mark.parametrize("rate", [10, 24, 30])
@pytest.mark.parametrize(
    ("container", "codec"),
    [("mp4", "libx264"), ("mp4", "mpeg4"), ("matroska", "libx264"), ("webm", "libvpx-vp9"), ("mpegts", "libx264")],
)
def test_a_video_gives_one_frame_a_second(rate, container, codec):
    frames, times = decode_video(video_file(np.arange(4 * rate) / rate, container, codec), 32)
    assert frames.shape == (4, 32, 48, 3) and frames.dtype == np.uint8 and times.dtype == np.float32
    assert seen(frames) == [0, rate, 2 * rate, 3 * rate] and times.tolist() == [0, 1, 2, 3]


def test_a_video_of_variable_rate_is_sampled_by_what_is_on_screen():
    shown = [0, 0.1, 0.2, 0.9, 2.5, 2.6, 4.0, 4.05]
    frames, times = decode_video(video_file(shown), 32)
    assert seen(frames) == [0, 3, 3, 5] and times.tolist() == [0, 1, 2, 3]
    assert seen(decode_video(video_file([7.5]), 32)[0]) == [0]


@pytest.mark.parametrize("gap", ["6", "1000"])
def test_a_longer_video_is_sampled_evenly(gap):
    frames, times = decode_video(video_file(np.arange(200) / 5, g=gap), 8)
    assert times.tolist() == [0, 5, 11, 16, 22, 27, 33, 39]
    assert seen(frames) == (times * 5).astype(int).tolist()


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, [0]),
        (0.04, [0]),
        (0.9985, [0]),
        (0.9995, [0]),
        (1, [0]),
        (2.97, [0, 1]),
        (2.9995, [0, 1, 2]),
        (4, [0, 1, 2, 3]),
        (4.99, [0, 1, 2, 3]),
        (5, [0, 1, 2, 4]),
        (61, [0, 20, 40, 60]),
    ],
)
def test_a_video_is_looked_at_every_whole_second(seconds, expected):
    assert decode.sample_times(seconds, 4).tolist() == expected
    assert decode.sample_times(seconds, 1).tolist() == [0]


def test_a_rate_just_below_a_whole_one_shows_the_frame_before_the_second():
    times = np.arange(90) * 1001 / 30_000
    assert seen(decode_video(video_file(times, "matroska"), 32)[0]) == [0, 29, 59]


def test_a_hidden_frame_is_not_shown():
    """VP8 keeps frames to predict from that are never shown, in packets of their own: here, frame 30 becomes one."""
    file = io.BytesIO()
    with (
        av.open(io.BytesIO(video_file(np.arange(90) / 30, "webm", "libvpx")), "r") as shown,
        av.open(file, "w", "webm") as out,
    ):
        stream = out.add_stream_from_template(shown.streams.video[0])
        for number, packet in enumerate(shown.demux(shown.streams.video[0])):
            if packet.size:
                data = bytearray(bytes(packet))
                data[0] &= 0xEF if number == 30 else 0xFF  # bit 4 of a VP8 frame: show it
                copy = av.Packet(bytes(data))
                copy.pts, copy.dts, copy.time_base, copy.stream = packet.pts, packet.dts, packet.time_base, stream
                copy.is_keyframe = packet.is_keyframe
                out.mux(copy)
    assert seen(decode_video(file.getvalue(), 32)[0]) == [0, 29, 60]


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (-90, -1), (180, 2)])
def test_a_turned_video_is_set_upright(rotation, turns):
    frames, _ = decode_video(video_file([0, 0.5, 1, 1.5], rotation=rotation), 32)
    plain, _ = decode_video(video_file([0, 0.5, 1, 1.5]), 32)
    assert (frames == np.rot90(plain, turns, (1, 2))).all()


def test_a_video_without_frames_is_refused():
    for data in (av_sound("mp4", "aac"), av_sound("matroska", "libopus"), sound_file(sine(440, 1, 16_000), 16_000)):
        with pytest.raises(MediaError, match="video has no frames"):
            decode_video(data, 32)
    with pytest.raises(MediaError, match="video"):
        decode_video(video_file([]), 32)


def test_a_broken_video_gives_its_frames_only_where_they_are_all_there():
    data = video_file(np.arange(120) / 30, index_first=True)
    whole, _ = decode_video(data, 32)
    start = data.index(b"mdat") + 8
    for part in (0, 0.3, 0.6):
        size = start + int(part * (len(data) - start))
        for broken in (data[:size], data[:size] + bytes(len(data) - size)):
            with pytest.raises(MediaError):
                decode_video(broken, 32)
    assert (decode_video(data[:-40], 32)[0] == whole).all()  # the last second is sampled at its start
    for data in (video_file(np.arange(100) / 25), video_file(np.arange(100) / 25, "webm", "libvpx-vp9")):
        with pytest.raises(MediaError):
            decode_video(data[: len(data) // 2], 32)  # without its index; by the length its header states


def test_a_video_over_the_limits_is_refused(monkeypatch):
    with pytest.raises(MediaError, match="at most 9,437,184"):
        decode_video(video_file([0], codec="mpeg4", shape=(4096, 2400)), 32)
    with pytest.raises(MediaError, match="at most 3,600 s"):
        decode_video(video_file([0, 2000, 4000]), 32)
    monkeypatch.setattr(video, "MAX_DECODED_PIXELS", 48 * 32 * 20)
    data = video_file(np.arange(100) / 25, g="1000", bf="0")
    assert seen(decode_video(video_file(np.arange(100) / 25, g="1"), 32)[0]) == [0, 25, 50, 75]
    with pytest.raises(MediaError, match="frames decoded"):
        decode_video(data, 32)
    monkeypatch.setattr(video, "MAX_PACKETS", 99)
    with pytest.raises(MediaError, match="more than 99 frames"):
        decode_video(data, 32)


def test_a_pdf_gives_its_pages():
    pages = render_pdf(pdf_file((200, 100), (100, 400)), longest=800)
    assert [page.shape for page in pages] == [(400, 800, 3), (800, 200, 3)]
    assert all(page.dtype == np.uint8 and (page == 255).all() for page in pages)
    (page,) = render_pdf(page_pdf(b"1 0 0 rg 0 0 100 100 re f"), longest=200)
    assert page[50, 50].tolist() == [255, 0, 0] and page[50, 150].tolist() == [255, 255, 255]
    assert max(render_pdf(pdf_file((14_000, 3)))[0].shape) == 1536
    assert len(render_pdf(pdf_file(*[(9, 9)] * 6), longest=9)) == 6


def test_a_long_pdf_is_split_into_pieces_that_show_its_pages():
    sizes = [(100 + 10 * i, 100) for i in range(14)]
    whole = pdf_file(*sizes)
    pieces = split_pdf(whole)
    assert [piece[:2] for piece in pieces] == [(1, 6), (7, 12), (13, 14)]
    shapes = [page.shape[:2] for _, _, data in pieces for page in render_pdf(data, longest=500)]
    np.testing.assert_allclose(shapes, [(500 * 100 / width, 500) for width, _ in sizes], atol=1.5)
    short = pdf_file((9, 9))
    assert split_pdf(short) == [(1, 1, short)]
    with pytest.raises(MediaError, match="can be split"):
        split_pdf(pdf_file(*[(9, 9)] * 2001))
    with pytest.raises(MediaError, match="PDF"):
        split_pdf(whole[:300])


def test_broken_long_and_locked_pdfs_are_refused():
    locked = b"/Encrypt <</Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s>>> /ID [<00><00>]" % (b"a1" * 32, b"b2" * 32)
    for data, reason in [
        (pdf_file(*[(9, 9)] * 7), "7 pages: 1 to 6"),
        (raw_pdf(b"<</Type /Catalog /Pages 2 0 R>>", b"<</Type /Pages /Kids [] /Count 0>>"), "."),
        (page_pdf(b"", locked), "password"),
        (pdf_file((9, 9))[:60], "cannot be read"),
    ]:
        with pytest.raises(MediaError, match=reason):
            render_pdf(data)


WHOLE = {
    "png": ("image", image_file(PHOTO)),
    "palette": ("image", image_file(Pillow.fromarray(PHOTO).convert("P"), transparency=3)),
    "jpeg": ("image", image_file(PHOTO, "JPEG")),
    "webp": ("image", image_file(PHOTO, "WEBP")),
    "gif": ("image", image_file(PHOTO, "GIF")),
    "tiff": ("image", image_file(PHOTO, "TIFF", compression="tiff_lzw")),
    "avif": ("image", image_file(PHOTO, "AVIF")),
    "wav": ("audio", sound_file(sine(440, 0.2, 44_100), 44_100)),
    "flac": ("audio", sound_file(sine(440, 0.2, 16_000), 16_000, "FLAC")),
    "opus": ("audio", sound_file(sine(440, 0.2, 16_000), 16_000, "OGG", "OPUS")),
    "mp3": ("audio", sound_file(sine(440, 0.2, 16_000), 16_000, "MP3")),
    "m4a": ("audio", av_sound("ipod", "aac", 0.3)),
    "webm-sound": ("audio", av_sound("webm", "libopus", 0.3)),
    "mp4": ("video", video_file(np.arange(30) / 10)),
    "webm": ("video", video_file(np.arange(30) / 10, "webm", "libvpx-vp9")),
    "mpegts": ("video", video_file(np.arange(30) / 10, "mpegts")),
    "avi": ("video", video_file(np.arange(30) / 30, "avi", "mpeg4")),
    "pdf": ("pdf", page_pdf(b"1 0 0 rg 0 0 100 100 re f")),
}


def test_threads_do_not_disturb_each_other():
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for kind, data in WHOLE.values():
            alone = DECODERS[kind](data)
            assert all(np.array_equal(alone, other) for other in pool.map(DECODERS[kind], [data] * 8))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("name", WHOLE)
def test_damaged_files_give_a_result_or_a_media_error(name):
    """300 files cut short, with flipped bytes (half of them in the header) or with a hole."""
    kind, whole = WHOLE[name]
    DECODERS[kind](whole)
    rng = np.random.default_rng(7)
    for turn in range(300):
        data = bytearray(whole)
        if turn % 3 == 0:
            del data[rng.integers(len(data)) :]
        elif turn % 3 == 1:
            reach = len(data) if turn % 2 else min(len(data), 200)
            for _ in range(rng.integers(1, 8)):
                data[rng.integers(reach)] = rng.integers(256)
        else:
            start = rng.integers(len(data))
            del data[start : start + rng.integers(1, 64)]
        begin = time.perf_counter()
        try:
            DECODERS[kind](bytes(data))
        except MediaError as error:
            assert str(error)
        assert time.perf_counter() - begin < 10
