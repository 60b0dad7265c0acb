"""Sound: WAV sizes left open, channels that cancel out, containers of sound alone; what is broken prints nothing."""

import io
import struct
import subprocess
import sys

import av
import numpy as np
import pytest
import soundfile
from test_media import PHOTO, av_sound, image_file, sine, sound_file, video_file

from embed.data.media.decode import AUDIO_SUFFIXES, VIDEO_SUFFIXES, MediaError, decode_audio, decode_video, has_video

TONE = sine(440, 0.5, 16_000)
WAV = sound_file(TONE, 16_000)
DATA = WAV.index(b"data")
RIFF_SIZE, DATA_SIZE = len(WAV) - 8, 2 * len(TONE)
PIPED = (0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF - 36, 0xFFFFFFFF)


def with_sizes(riff: int, data: int, wav: bytes = WAV) -> bytes:
    return wav[:4] + struct.pack("<I", riff) + wav[8 : DATA + 4] + struct.pack("<I", data) + wav[DATA + 8 :]


@pytest.mark.parametrize("data", PIPED)
@pytest.mark.parametrize("riff", [0, 36, 0x7FFFF024, 0x80000024, 0xFFFFFFFF])
def test_a_wav_that_leaves_its_sizes_open_is_read_to_its_end(riff, data):
    assert np.allclose(decode_audio(with_sizes(riff, data)), TONE, atol=1e-4)


@pytest.mark.parametrize("data", PIPED[1:])
def test_a_wav_that_knows_the_size_of_its_file_alone_is_read_to_it(data):
    more = b"LIST" + struct.pack("<I", 100) + b"\x7f" * 100  # not of the file that the header speaks of
    assert np.allclose(decode_audio(with_sizes(RIFF_SIZE, data) + more), TONE, atol=1e-4)
    with pytest.raises(MediaError, match="truncated"):
        decode_audio(with_sizes(RIFF_SIZE, data)[:-2000])


@pytest.mark.parametrize(
    ("wav", "reason"),
    [
        (WAV[:-2000], "claims 16,000 bytes of audio but has 14,000"),
        (with_sizes(0xFFFFFFFF, DATA_SIZE)[:-2000], "truncated"),
        (with_sizes(RIFF_SIZE, 2_000_000_000), "truncated"),
        (with_sizes(RIFF_SIZE, 0x7FFF0000), "truncated"),
        (with_sizes(RIFF_SIZE, 0), "claims no audio but has 16,000"),
        (with_sizes(36, 0)[: DATA + 8], "has no samples"),
    ],
)
def test_a_wav_whose_size_is_meant_is_refused_without_it(wav, reason):
    with pytest.raises(MediaError, match=reason):
        decode_audio(wav)


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_samples_that_were_not_scaled_are_refused(subtype):
    def encode(scale: float) -> bytes:
        out = io.BytesIO()
        soundfile.write(out, TONE.astype(np.float64) * scale, 16_000, format="WAV", subtype=subtype)
        return out.getvalue()

    assert np.abs(decode_audio(encode(3.9 / np.abs(TONE).max()))).max() == 1
    for scale in (32_768, 8_388_608, 4.1 / np.abs(TONE).max()):
        with pytest.raises(MediaError, match=r"reaches .*divide by full scale"):
            decode_audio(encode(scale))


@pytest.mark.parametrize("name", [b"RF64", b"BW64"])
def test_a_wav_of_64_bit_sizes_is_read_by_them(name):
    wav = name + sound_file(TONE, 16_000, "RF64")[4:]
    assert np.allclose(decode_audio(wav), TONE, atol=1e-4)
    with pytest.raises(MediaError, match="truncated"):
        decode_audio(wav[:-2000])
    sizes = wav.index(b"ds64") + 8
    for unknown in (0, 2**64 - 1):
        piped = wav[:sizes] + struct.pack("<QQ", unknown, unknown) + wav[sizes + 16 :]
        assert np.allclose(decode_audio(piped), TONE, atol=1e-4)


def stereo(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.stack([left, right], axis=1)


NOISE = np.random.default_rng(0).standard_normal(len(TONE)).astype(np.float32) * 0.1


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_channels_that_cancel_out_are_refused(kind):
    pairs = [(TONE, -TONE), (TONE + 0.001 * NOISE, -TONE), (NOISE, -0.98 * NOISE)]
    for left, right in pairs if kind in ("WAV", "FLAC") else pairs[:1]:
        with pytest.raises(MediaError, match="channels cancel out"):
            decode_audio(sound_file(stereo(left, right), 16_000, kind))


def test_four_channels_that_cancel_out_are_refused():
    quad = np.stack([TONE, -TONE, NOISE, -NOISE], axis=1)
    with pytest.raises(MediaError, match="channels cancel out"):
        decode_audio(sound_file(quad, 16_000))


def test_channels_that_differ_are_averaged():
    silence = np.zeros_like(TONE)
    assert not decode_audio(sound_file(stereo(silence, silence), 16_000)).any()
    for left, right in ((TONE, silence), (TONE, NOISE), (TONE, -0.8 * TONE), (TONE, TONE)):
        samples = decode_audio(sound_file(stereo(left, right), 16_000, subtype="FLOAT"))
        assert np.allclose(samples, (left + right) / 2, atol=1e-6)
    eight = np.zeros((len(TONE), 8), np.float32)
    eight[:, 3] = TONE
    assert np.allclose(decode_audio(sound_file(eight, 16_000, subtype="FLOAT")), TONE / 8, atol=1e-6)


def test_an_mp3_cut_short_is_refused_where_it_states_its_length():
    mp3 = sound_file(sine(440, 3, 16_000), 16_000, "MP3")
    assert len(decode_audio(mp3)) == 48_000
    for data in (mp3, av_sound("mp3", "libmp3lame", 3)):
        with pytest.raises(MediaError, match="truncated"):
            decode_audio(data[: len(data) * 7 // 10])


@pytest.mark.parametrize("kind", [("mp4", "aac"), ("webm", "libopus"), ("matroska", "flac"), ("mov", "alac")])
def test_a_container_of_sound_alone_is_told_from_a_video(kind):
    sound = av_sound(*kind)
    assert not has_video(sound) and len(decode_audio(sound)) > 15_000
    with pytest.raises(MediaError, match="only audio; pass it as `audio`"):
        decode_video(sound, 32)


def test_a_video_is_told_from_sound():
    for kind, codec in (("mp4", "libx264"), ("webm", "libvpx"), ("mpegts", "libx264")):
        assert has_video(video_file([0, 0.5, 1], kind, codec))
    for data in (b"", b"no container" * 99, video_file([0, 1])[:200]):
        with pytest.raises(MediaError):
            has_video(data)


def test_a_cover_is_no_video():
    picture = b"\0image/png\0\x03\0" + image_file(PHOTO)  # Latin-1, its kind, "front cover", no description
    frame = b"APIC" + struct.pack(">IH", len(picture), 0) + picture
    size = bytes(len(frame) >> shift & 127 for shift in (21, 14, 7, 0))
    song = b"ID3\x03\0\0" + size + frame + sound_file(sine(440, 1, 16_000), 16_000, "MP3")
    assert len(decode_audio(song)) == 16_000 and not has_video(song)
    with pytest.raises(MediaError, match="only audio"):
        decode_video(song, 32)


def with_title(data: bytes, kind: str, title: bytes) -> bytes:
    """The same streams in a container of that kind, with a title of any bytes."""
    file, stand_in = io.BytesIO(), "*" * len(title)
    with av.open(io.BytesIO(data), "r") as source, av.open(file, "w", format=kind) as out:
        out.metadata["title"] = stand_in
        stream = out.add_stream_from_template(source.streams[0])
        for packet in source.demux(source.streams[0]):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    assert stand_in.encode() in file.getvalue()
    return file.getvalue().replace(stand_in.encode(), title)


@pytest.mark.parametrize("kind", ["mp4", "matroska"])
@pytest.mark.parametrize("title", ["Café crème".encode("latin-1"), "猫の動画".encode("shift-jis")])
def test_a_title_that_is_not_utf8_does_not_keep_a_file_from_being_read(kind, title):
    with pytest.raises(UnicodeDecodeError):
        title.decode()
    frames, _ = decode_video(with_title(video_file([0, 1, 2]), kind, title), 32)
    assert len(frames) == 3
    assert len(decode_audio(with_title(av_sound("mp4", "aac"), kind, title))) > 15_000


@pytest.mark.parametrize("error", [TypeError, AttributeError, ImportError, MemoryError])
def test_a_defect_is_not_taken_for_a_broken_file(monkeypatch, error):
    def fail(*args, **options):
        raise error("a change of the library's")

    video, sound = video_file([0, 1]), av_sound("mp4", "aac")
    monkeypatch.setattr(av, "open", fail)
    for decode in (lambda: decode_video(video, 32), lambda: has_video(video), lambda: decode_audio(sound)):
        with pytest.raises(error):
            decode()
    monkeypatch.setattr(soundfile, "SoundFile", fail)
    with pytest.raises(error):
        decode_audio(WAV)


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_an_error_that_another_thread_wiped_out_does_not_refuse_a_file(monkeypatch, kind):
    data = sound_file(sine(440, 0.2, 16_000), 16_000, kind)
    expected = decode_audio(data)

    def fail(*args):
        raise soundfile.LibsndfileError(0)  # as soundfile does where the global code is gone

    monkeypatch.setattr(soundfile, "SoundFile", fail)
    np.testing.assert_allclose(decode_audio(data), expected, rtol=0, atol=1e-4)
    with pytest.raises(MediaError):
        decode_audio(b"nothing that any library reads")


def test_every_format_that_is_read_has_its_suffix():
    names = ["mov", "matroska", "avi", "ogg", "flv", "mp3", "aac", "flac"]
    read = set().union(*(av.ContainerFormat(name, "r").extensions for name in names))
    beside = {"avif", "heic", "heif", "mks", "ism", "isma", "ismv", "psp", "m2a"}  # stills, subtitles, streaming
    assert {f".{name}" for name in read - beside} <= AUDIO_SUFFIXES | VIDEO_SUFFIXES | {".avif"}
    assert not AUDIO_SUFFIXES & VIDEO_SUFFIXES
    for suffix, data in {
        ".aiff": sound_file(TONE, 16_000, "AIFF"),
        ".au": sound_file(TONE, 16_000, "AU"),
        ".caf": sound_file(TONE, 16_000, "CAF"),
        ".w64": sound_file(TONE, 16_000, "W64"),
        ".voc": sound_file(TONE, 16_000, "VOC"),
        ".rf64": sound_file(TONE, 16_000, "RF64"),
        ".wma": av_sound("asf", "wmav2"),
        ".mp2": av_sound("mp2", "mp2"),
        ".mka": av_sound("matroska", "aac"),
        ".oga": av_sound("ogg", "flac"),
    }.items():
        assert suffix in AUDIO_SUFFIXES and len(decode_audio(data)) > 5000


BROKEN = """
import sys
from embed.data.media.decode import MediaError, decode_audio, decode_video
for path in sys.argv[1:]:
    for decode in (decode_audio, lambda data: decode_video(data, 32)):
        try:
            decode(open(path, "rb").read())
        except MediaError as error:
            pass
"""


def test_broken_sound_and_video_print_nothing(tmp_path):
    rng = np.random.default_rng(0)
    mp3 = sound_file(sine(440, 1, 16_000), 16_000, "MP3")
    for name, data in {
        "cut.mp3": mp3[: len(mp3) // 2],
        "hole.mp3": mp3[:1000] + bytes(500) + mp3[1500:],
        "hole.mp2": av_sound("mp2", "mp2")[:1000] + rng.bytes(500),
        "nameless.aiff": sound_file(TONE, 16_000, "AIFF").replace(b"SSND", b"\xff\xff\xff\xff", 1),
        "noise.mp4": video_file(np.arange(60) / 30, index_first=True)[:-900] + rng.bytes(900),
        "noise.ts": video_file(np.arange(60) / 30, "mpegts")[:3000] + rng.bytes(900),
    }.items():
        (tmp_path / name).write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", BROKEN, *map(str, sorted(tmp_path.iterdir()))], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
