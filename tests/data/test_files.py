"""Files by their names and bytes: every suffix that is read, containers of sound alone, texts, and what disagrees."""

import io
import os
import re
import tarfile
import zipfile

import av
import numpy as np
import pytest
import soundfile
from PIL import Image as Pillow

from embed.data.files import SHARED_SUFFIXES, is_media, read_file
from embed.data.media.decode import (
    AUDIO_SUFFIXES,
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    MediaError,
    decode_audio,
    decode_image,
    decode_video,
)
from embed.data.modalities import Audio, Image, Pdf, Text, Video

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (48, 64, 3), np.uint8)
TONE = (0.5 * np.sin(np.arange(16_000) / 7)).astype(np.float32)
TEXT = "größer als: 猫\n"


def image(form: str) -> bytes:
    file = io.BytesIO()
    Pillow.fromarray(PHOTO).save(file, form)
    return file.getvalue()


def sound(form: str, codec: str = "") -> bytes:
    """By libsndfile, or in a container of its own codec by PyAV."""
    file = io.BytesIO()
    if not codec:
        soundfile.write(file, TONE, 16_000, format=form, subtype="PCM_16")
        return file.getvalue()
    with av.open(file, "w", format=form) as out:
        stream = out.add_stream(codec, rate=48_000, layout="mono")
        stream.bit_rate = 128_000
        frame = av.AudioFrame.from_ndarray(np.tile(TONE, 3)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48_000, 0
        for part in [
            *av.AudioResampler(stream.format, "mono", 48_000, stream.frame_size or None).resample(frame),
            None,
        ]:
            out.mux(stream.encode(part))
    return file.getvalue()


def video(form: str, codec: str) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=form) as out:
        stream = out.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for frame in [*[av.VideoFrame.from_ndarray(PHOTO, format="rgb24")] * 5, None]:
            out.mux(stream.encode(frame))
    return file.getvalue()


IMAGES = {".jfif": "JPEG", ".apng": "PNG", ".ico": "ICO", ".jp2": "JPEG2000", ".avif": "AVIF", ".JPG": "JPEG"}
SOUNDS = {
    ".aiff": ("AIFF", ""),
    ".caf": ("CAF", ""),
    ".au": ("AU", ""),
    ".w64": ("W64", ""),
    ".wma": ("asf", "wmav2"),
    ".oga": ("ogg", "flac"),
    ".mka": ("matroska", "aac"),
}
VIDEOS = {
    ".m4v": ("mp4", "mpeg4"),
    ".3gp": ("3gp", "mpeg4"),
    ".mpg": ("mpeg", "mpeg1video"),
    ".ts": ("mpegts", "mpeg2video"),
    ".m2ts": ("mpegts", "mpeg2video"),
    ".flv": ("flv", "flv"),
    ".wmv": ("asf", "wmv2"),
}


def write(folder, name: str, data: bytes):
    (folder / name).write_bytes(data)
    return folder / name


@pytest.mark.parametrize("suffix", IMAGES)
def test_images_by_their_suffix(tmp_path, suffix):
    part = read_file(write(tmp_path, "a" + suffix, image(IMAGES[suffix])))
    assert isinstance(part, Image) and decode_image(part.data).shape[2] == 3


@pytest.mark.parametrize("suffix", SOUNDS)
def test_sounds_by_their_suffix(tmp_path, suffix):
    part = read_file(write(tmp_path, "a" + suffix, sound(*SOUNDS[suffix])))
    assert isinstance(part, Audio) and len(decode_audio(part.data)) == pytest.approx(16_000, rel=0.1)


@pytest.mark.parametrize("suffix", VIDEOS)
def test_videos_by_their_suffix(tmp_path, suffix):
    part = read_file(write(tmp_path, "a" + suffix, video(*VIDEOS[suffix])))
    assert isinstance(part, Video) and decode_video(part.data, 32)[0].shape[1:] == (48, 64, 3)


@pytest.mark.parametrize("form, codec", [("mp4", "aac"), ("mov", "aac"), ("matroska", "flac"), ("webm", "libopus")])
def test_a_container_of_sound_alone_is_a_sound(tmp_path, form, codec):
    suffix = {"matroska": ".mkv"}.get(form, "." + form)
    part = read_file(write(tmp_path, "a" + suffix, sound(form, codec)))
    assert isinstance(part, Audio) and len(decode_audio(part.data)) == pytest.approx(16_000, rel=0.1)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_text_is_what_its_mark_says(tmp_path, encoding):
    for name in ("a.txt", "README", "a.py", "go.mod", "app.ts"):
        assert read_file(write(tmp_path, name, TEXT.encode(encoding))) == Text(TEXT)


@pytest.mark.parametrize(
    "suffix", sorted((IMAGE_SUFFIXES | AUDIO_SUFFIXES | VIDEO_SUFFIXES) - SHARED_SUFFIXES | {".pdf"})
)
def test_a_medium_that_holds_text_is_refused(tmp_path, suffix):
    path = write(tmp_path, "a" + suffix, TEXT.encode())
    with pytest.raises(ValueError, match=rf"a\{suffix} holds text, but its name ends in \{suffix}: rename it$"):
        read_file(path)
    assert is_media(path.name) and not is_media("a.txt") and not is_media("app.ts")


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("a.txt", TEXT)
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as out:
        out.addfile(tarfile.TarInfo("a.txt"))
    return file.getvalue()


@pytest.mark.parametrize("name", ["a.txt", "README", "a.csv", "app.ts.bin"])
@pytest.mark.parametrize(
    "data, kind",
    [
        (image("PNG"), "a PNG image"),
        (image("JPEG"), "a JPEG image"),
        (sound("FLAC"), "a FLAC audio file"),
        (video("mp4", "mpeg4"), "an MP4 or MOV video"),
        (b"%PDF-1.4\n1 0 obj\n", "a PDF"),
        (archive(), "a zip archive"),
        (tarred(), "a tar archive"),
        (b"\x7fELF\2\1\1", "an ELF program"),
        (b"red\0green", "a binary file (it has NUL bytes)"),
        (b"red " * 4000 + b"\0", "zero bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_binary_file_is_no_text(tmp_path, name, data, kind):
    with pytest.raises(ValueError, match=rf"{name}(:| holds) .*{re.escape(kind)}"):
        read_file(write(tmp_path, name, data))


@pytest.mark.parametrize(
    "data, why",
    [
        ("größer".encode("latin-1"), "not UTF-8 text: byte 0xf6 at 2"),
        ("größer als".encode("utf-16-le"), "NUL bytes), but its name is not"),
        (TEXT.encode("shift-jis", "replace"), "not UTF-8 text"),
        (b"\xff\xfea", "not UTF-16-LE text"),
        (b"", "is an empty file"),
        (b"\xef\xbb\xbf", "is an empty file"),
    ],
)
def test_a_text_in_another_encoding_is_refused(tmp_path, data, why):
    path = write(tmp_path, "a.txt", data)
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*" + re.escape(why)):
        read_file(path)


def test_a_pipe_is_not_waited_for(tmp_path):
    for name in ("a.pdf", "a.txt"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(ValueError, match="is not a file"):
            read_file(tmp_path / name)


def test_a_broken_video_is_an_error(tmp_path):
    with pytest.raises(MediaError, match="broken"):
        read_file(write(tmp_path, "a.mp4", video("mp4", "mpeg4")[:300]))


def test_a_pdf_is_a_pdf(tmp_path):
    assert read_file(write(tmp_path, "a.PDF", b"%PDF-1.4\n1 0 obj\n")) == Pdf(b"%PDF-1.4\n1 0 obj\n")
