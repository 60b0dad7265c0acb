"""What `embed` takes: every container in its order or an error, waveforms, opened images, arguments."""

import collections
import io
import itertools
import pathlib
import re

import numpy as np
import pytest
import soundfile
from PIL import Image as Pillow

from embed.data.items import to_integer, to_part, to_parts, to_sequence
from embed.data.media.audio import MAX_PEAK
from embed.data.media.decode import MediaError, decode_audio, decode_image
from embed.data.modalities import Audio, Image, Pdf, Text, Video

RNG = np.random.default_rng(0)
TONE = (0.5 * np.sin(np.arange(3200) / 7)).astype(np.float32)
WORDS = ["red", "green", "blue"]


class Column:
    """A column of a table whose `[]` looks a label up, as pandas' does, not a place."""

    shape = (3,)

    def __init__(self, labels: list, values: list):
        self.values = dict(zip(labels, values, strict=True))

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self):
        return iter(self.values.values())

    def __getitem__(self, label):
        return self.values[label]


class Table:
    """A table, which iterates over the names of its columns, as pandas' does."""

    shape = (3, 2)

    def __iter__(self):
        return iter(["color", "size"])


@pytest.mark.parametrize(
    "items",
    [
        tuple(WORDS),
        (word for word in WORDS),
        iter(WORDS),
        map(str, WORDS),
        collections.deque(WORDS),
        dict.fromkeys(WORDS).keys(),
        dict(enumerate(WORDS)).values(),
        np.array(WORDS),
        np.array(WORDS, object),
        Column([2, 0, 1], WORDS),
        Column(["a", "b", "c"], WORDS),
        itertools.chain(WORDS[:1], WORDS[1:]),
    ],
    ids=lambda items: type(items).__name__,
)
def test_what_has_an_order_keeps_it(items):
    sequence = to_sequence(items)
    assert [to_part(sequence[i]) for i in range(len(sequence))] == [Text(word) for word in WORDS]


def test_a_column_of_pandas_keeps_its_order():
    pandas = pytest.importorskip("pandas")
    column = pandas.Series(WORDS, index=[2, 0, 1])
    assert list(to_sequence(column)) == list(to_sequence(column.to_frame()[0])) == WORDS
    with pytest.raises(ValueError, match="DataFrame of shape"):
        to_sequence(column.to_frame())


@pytest.mark.parametrize(
    "items, why",
    [
        ("red", "one str: put it in a list"),
        (b"red", "one bytes: put it"),
        (bytearray(b"red"), "one bytearray: put it"),
        (pathlib.Path("a.png"), "PosixPath: put it"),
        (Pillow.new("RGB", (8, 8)), "one Image: put it"),
        (Text("red"), "one Text: put it"),
        (None, "one NoneType: put it"),
        (7, "one int: put it"),
        (np.float32(7), "one float32: put it"),
        (io.StringIO("red\ngreen"), "an open file (StringIO): give its path"),
        ({"a": "red"}, "a dict: give list(items.values())"),
        (collections.Counter("red"), "a Counter: give list"),
        ({"red", "green"}, "a set, which has no order"),
        (frozenset("red"), "a frozenset, which has no order"),
        (np.array("red"), "a ndarray of shape []"),
        (np.array([WORDS, WORDS]), "a ndarray of shape [2, 3]"),
        (np.zeros((2, 8, 8, 3), np.uint8), "a ndarray of shape [2, 8, 8, 3]: if it is one item, put it in a list"),
        (Table(), "a Table of shape [3, 2]"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_list_is_refused(items, why):
    with pytest.raises(ValueError, match=re.escape(why)):
        to_sequence(items)


@pytest.mark.parametrize(
    "item, why",
    [
        (True, "cannot embed bool True"),
        (7, "cannot embed int 7"),
        (float("nan"), "cannot embed float nan"),
        (np.int64(7), "cannot embed int64"),
        (None, "cannot embed NoneType"),
        (np.bytes_(b"red"), "cannot embed bytes_"),
        ({"text": "red"}, "cannot embed dict"),
        (("red", "green"), "a tuple of str, str"),
        ((), "cannot embed an empty tuple: give"),
        (pathlib.PurePosixPath("a.txt"), "cannot embed PurePosixPath"),
        (str, "cannot embed type"),
        (Text(None), "Text holds a string; got NoneType"),
        (Image("photo.png"), "Image holds the bytes of an encoded file; got str 'photo.png'"),
        (Pdf(pathlib.Path("a.pdf")), "Pdf holds the bytes"),
        (Video(None), "Video holds the bytes"),
        (TONE, r"got float32[3200]: pass a waveform with its rate"),
        (np.zeros((8, 8, 3), np.uint8), "pass an image as PIL.Image.fromarray"),
        (np.zeros((8, 8), np.uint8), "pass an image as"),
        (np.array(WORDS), "pass an array of items as a list"),
        (np.zeros((2, 3, 8, 8), np.uint8), "got uint8[2, 3, 8, 8]"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_item_is_refused(item, why):
    with pytest.raises(ValueError, match=re.escape(why)):
        to_part(item)


def test_a_numpy_string_is_a_text():
    assert to_parts(np.str_("red")) == [Text("red")]
    assert to_parts([np.str_("red"), "7"]) == [Text("red"), Text("7")]


@pytest.mark.parametrize("value", [1, 8, np.int64(8), np.uint8(3)])
def test_integers_are_integers(value):
    assert to_integer("dim", value, 8) == value and type(to_integer("dim", value, 8)) is int


@pytest.mark.parametrize(
    "value", [0, 9, -1, np.int64(-1), True, np.True_, "8", 8.0, np.float32(8), [8], np.ones(3), {}]
)
def test_other_arguments_are_no_integers(value):
    with pytest.raises(ValueError, match=r"^dim .*1\.\.8"):
        to_integer("dim", value, 8)


@pytest.mark.parametrize("scale", [1, MAX_PEAK * 2])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
@pytest.mark.parametrize("rate", [16_000, 16_000.0, np.float64(16_000), np.int32(16_000)])
def test_a_waveform_is_heard_as_it_is(scale, dtype, rate):
    """Half as loud as full scale, and up to MAX_PEAK: what is beyond full scale is clipped."""
    samples = (TONE * scale * 0.999).astype(dtype)
    part = to_part((samples, rate))
    assert isinstance(part, Audio)
    np.testing.assert_allclose(decode_audio(part.data), np.clip(samples.astype(np.float32), -1, 1), atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_channels_are_the_second_axis(channels):
    sound = to_part((np.stack([TONE] * channels, axis=1), 16_000))
    np.testing.assert_allclose(decode_audio(sound.data), TONE, atol=1e-6)


def test_a_list_of_samples_is_a_waveform():
    np.testing.assert_allclose(decode_audio(to_part((TONE.tolist(), 16_000)).data), TONE, atol=1e-6)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_32", "PCM_U8"])
def test_samples_of_a_file_are_refused_until_they_are_scaled(subtype):
    """As integers, and as floats of the same size: what is read without scaling."""
    file = io.BytesIO()
    soundfile.write(file, TONE, 16_000, format="WAV", subtype=subtype)
    samples, rate = soundfile.read(io.BytesIO(file.getvalue()), dtype="int16")
    with pytest.raises(ValueError, match=r"got int16.*32768"):
        to_part((samples, rate))
    with pytest.raises(ValueError, match=r"in -1\.\.1; got samples up to 1\d,\d+: divide by full scale"):
        to_part((samples.astype(np.float32), rate))
    np.testing.assert_allclose(decode_audio(to_part((samples / 32768, rate)).data), TONE, atol=1e-2)


@pytest.mark.parametrize(
    "item, why",
    [
        ((16_000, TONE), "a tuple (rate, waveform), as scipy returns it"),
        ((np.int64(16_000), TONE), "(rate, waveform)"),
        ((np.stack([TONE, TONE]), 16_000), "got float32[2, 3200], channels first: give samples.T"),
        ((TONE[None], 16_000), "channels first"),
        ((np.zeros((64, 100), np.float32), 16_000), "100 channels has too many: at most 32"),
        (((TONE * 32767).astype(np.int32), 16_000), "divide int16 by 32768"),
        ((TONE > 0, 16_000), "got bool[3200]"),
        ((TONE.astype(complex), 16_000), "got complex128[3200]"),
        ((TONE * 8.4, 16_000), "samples up to 4"),
        ((-TONE * 255, 16_000), "samples up to 127"),
        ((np.where(TONE > 0.4, np.nan, TONE), 16_000), "samples of a waveform are not finite"),
        ((np.where(TONE > 0.4, -np.inf, TONE), 16_000), "samples of a waveform are not finite"),
        ((np.zeros((0, 2), np.float32), 16_000), "has no samples"),
        (([], 16_000), "has no samples"),
        (([[1.0], [2.0, 3.0]], 16_000), "inhomogeneous"),
        ((["red"], 16_000), "got <U3[1]"),
        ((TONE, 16_000.5), "an integer in Hz; got float 16000.5"),
        ((TONE, float("nan")), "an integer in Hz"),
        ((TONE, True), "an integer in Hz; got bool True"),
        ((TONE, "16000"), "an integer in Hz; got str '16000'"),
        ((TONE, None), "an integer in Hz; got NoneType"),
        ((TONE, TONE), "an integer in Hz; got ndarray"),
        ((TONE, 10**400), "cannot encode a waveform"),
        ((TONE, 16_000, 1), "a tuple of ndarray, int, int"),
    ],
)
def test_what_is_no_waveform_is_refused(item, why):
    with pytest.raises(ValueError, match=re.escape(why)):
        to_part(item)


def encoded(image: Pillow.Image, form: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


GREY16 = Pillow.fromarray(np.linspace(0, 65535, 48 * 64).reshape(48, 64).astype(np.uint16))
COLOR = Pillow.fromarray(RNG.integers(0, 256, (48, 64, 3), np.uint8))
CLEAR = Pillow.fromarray(RNG.integers(0, 256, (48, 64, 4), np.uint8))
TURNED = Pillow.Exif()
TURNED[0x0112] = 6
OPENED = {
    "16 bits, PNG": encoded(GREY16, "PNG"),
    "16 bits, TIFF": encoded(GREY16, "TIFF"),
    "turned JPEG": encoded(COLOR, "JPEG", exif=TURNED),
    "turned PNG": encoded(COLOR, "PNG", exif=TURNED),
    "CMYK": encoded(COLOR.convert("CMYK"), "TIFF"),
    "RGBA": encoded(CLEAR, "PNG"),
    "LA": encoded(CLEAR.convert("LA"), "PNG"),
    "palette with a clear color": encoded(COLOR.quantize(16), "PNG", transparency=3),
    "gray with a clear level": encoded(COLOR.convert("L"), "PNG", transparency=7),
    "1 bit": encoded(COLOR.convert("1"), "PNG"),
    "YCbCr": encoded(COLOR.convert("YCbCr"), "JPEG"),
    "GIF": encoded(COLOR, "GIF"),
}


@pytest.mark.parametrize("name", OPENED)
def test_an_opened_image_is_its_file(name):
    part = to_part(Pillow.open(io.BytesIO(OPENED[name])))
    np.testing.assert_array_equal(decode_image(part.data), decode_image(OPENED[name]))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_an_image_without_a_white_is_refused_as_its_file_is(mode):
    image = Pillow.fromarray(np.arange(64, dtype=np.int32 if mode == "I" else np.float32).reshape(8, 8))
    data = encoded(image, "TIFF")
    assert Pillow.open(io.BytesIO(data)).mode == mode
    for give in (lambda: decode_image(data), lambda: to_part(Pillow.open(io.BytesIO(data))), lambda: to_part(image)):
        with pytest.raises(MediaError, match="32 bits per pixel"):
            give()


def test_an_opened_image_whose_file_is_cut_short_is_refused():
    with pytest.raises(MediaError, match="truncated"):
        to_part(Pillow.open(io.BytesIO(encoded(COLOR, "PNG")[:2000])))
