"""The same patches, mel frames, video frames and token ids as the transformers library, from files made here.

What differs, and why:
- Transparency: decode_image puts it over white, the reference drops the alpha channel. Compared behind our decoding.
- A sound of more than 30 s becomes several clips; the reference cuts its end off. Compared window by window.
- Video frames are resized by Pillow, as images are here and in the reference; its videos are resized by torchvision.
- One frame a second of every video, as for EmbeddingGemma 2; Gemma 4's processor takes 32 of any, however short.
- A video's times are those asked for, whole seconds. EmbeddingGemma 2 rounds the times of the frames it found to them;
  Gemma 4 rounds these down, so that a frame of second 1 at 29.97 a second is called 00:00.
- Texts that follow one another are tokenized apart, and a special token's name in a text is text.
"""

import __future__

import ast
import functools
import io
import json
import pathlib
import types
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
import jax
import numpy as np
import pytest
import soundfile
from PIL import Image as Pillow

torch = pytest.importorskip("torch", reason="the parity tests need the extra [hf]")
pytest.importorskip("transformers.models.gemma4_unified", reason="the parity tests need the extra [hf]")

import transformers  # noqa: E402
from transformers import video_utils  # noqa: E402
from transformers.models.embedding_gemma2 import processing_embedding_gemma2 as embedding_gemma2  # noqa: E402
from transformers.models.gemma4 import processing_gemma4 as gemma4  # noqa: E402
from transformers.models.gemma4.feature_extraction_gemma4 import Gemma4AudioFeatureExtractor  # noqa: E402
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil  # noqa: E402
from transformers.models.gemma4_unified import processing_gemma4_unified as unified  # noqa: E402
from transformers.models.gemma4_unified.feature_extraction_gemma4_unified import (  # noqa: E402
    Gemma4UnifiedAudioFeatureExtractor,
)

from embed.data import tokenizer as tokenizers  # noqa: E402
from embed.data.budget import num_tokens, standard_budget  # noqa: E402
from embed.data.collate import make_rows  # noqa: E402
from embed.data.media.decode import decode_audio, decode_image, decode_video, sample_times  # noqa: E402
from embed.data.media.patches import resize_to_patches  # noqa: E402
from embed.data.modalities import Audio, Image, Text, Video  # noqa: E402
from embed.data.pieces import AudioPiece, ImagePiece  # noqa: E402
from embed.data.preprocess import Preprocessor, make_pieces  # noqa: E402
from embed.model.presets import EMBEDDINGGEMMA2, GEMMA4_12B, GEMMA4_E2B  # noqa: E402

MEL = Gemma4AudioFeatureExtractor()
RAW = Gemma4UnifiedAudioFeatureExtractor()


def without_torchvision(module: str, name: str, **names: Any) -> Callable:
    """A function of a file of the reference that only torchvision lets one import, compiled by itself."""
    path = pathlib.Path(transformers.__file__).parent / "models" / module
    (found,) = (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef) and n.name == name)
    code = compile(ast.Module([found], []), str(path), "exec", __future__.annotations.compiler_flag)
    exec(code, names)
    return names[name]


# Images


def photo(height: int, width: int) -> np.ndarray:
    """Waves and noise: every resampling error shows."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 37 + y / 53), np.cos(x / 11 - y / 29), np.sin(x * y / 4000)], axis=-1)
    noise = np.random.default_rng(height * 10_000 + width).normal(0, 20, waves.shape)
    return np.clip(127 + 120 * waves + noise, 0, 255).astype(np.uint8)


def image_file(height: int, width: int, mode: str = "RGB", kind: str = "PNG") -> bytes:
    file, image = io.BytesIO(), Pillow.fromarray(photo(height, width)).convert("RGB" if mode == "P" else mode)
    if mode in ("RGBA", "LA"):
        ramp = np.linspace(0, 255, height * width).astype(np.uint8).reshape(height, width)
        image.putalpha(Pillow.fromarray(ramp))
    (image.quantize(64) if mode == "P" else image).save(file, kind)
    return file.getvalue()


IMAGES = {
    "one-pixel": image_file(1, 1),
    "tiny": image_file(7, 9),
    "long": image_file(3, 1000),
    "tall": image_file(1000, 3),
    "longest": image_file(2, 5000),
    "exact": image_file(480, 1344),
    "photo": image_file(1080, 1920, kind="JPEG"),
    "large": image_file(2500, 1700, kind="JPEG"),
    "odd": image_file(97, 501, kind="WEBP"),
    "gray": image_file(301, 222, "L"),
    "palette": image_file(222, 333, "P"),
    "alpha": image_file(120, 200, "RGBA"),
    "gray-alpha": image_file(200, 120, "LA"),
}


def assert_same_patches(pixels: np.ndarray, most: int) -> None:
    """Ours of 48 pixels against the reference's of 16: the same image, cut at the same places, in the same order."""
    # Channels last is said, because the reference takes an image three pixels high for one of three channels.
    given = {"input_data_format": "channels_last", "return_tensors": "np"}
    found = Gemma4ImageProcessorPil(max_soft_tokens=most)(Pillow.fromarray(pixels), **given)
    small, places = found["pixel_values"][0], found["image_position_ids"][0]
    there = places[:, 0] >= 0
    patches, xy = resize_to_patches(pixels, 48, most)
    assert len(xy) == int(found["num_soft_tokens_per_image"][0]) == there.sum() / 9
    columns, rows = xy.max(axis=0) + 1
    cut = patches.reshape(rows, columns, 3, 16, 3, 16, 3).transpose(0, 2, 1, 4, 3, 5, 6).reshape(-1, 768)
    np.testing.assert_array_equal(cut.astype(np.float32) / 255, small[there])
    within = np.stack(np.meshgrid(np.arange(3 * columns), np.arange(3 * rows)), axis=-1).reshape(-1, 2)
    np.testing.assert_array_equal(within, places[there])


@pytest.mark.parametrize("most", [70, 140, 280])
@pytest.mark.parametrize("name", IMAGES)
def test_patches_are_the_references_to_the_bit(name, most):
    assert_same_patches(decode_image(IMAGES[name]), most)


@pytest.mark.parametrize("name", [name for name in IMAGES if "alpha" not in name])
def test_an_opaque_file_is_decoded_as_the_reference_does(name):
    image = Pillow.open(io.BytesIO(IMAGES[name]))
    np.testing.assert_array_equal(decode_image(IMAGES[name]), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("name", ["alpha", "gray-alpha"])
def test_transparency_alone_is_decoded_otherwise(name):
    theirs = np.asarray(Pillow.open(io.BytesIO(IMAGES[name])).convert("RGB")).astype(int)
    ours = decode_image(IMAGES[name])
    assert np.abs(ours[-1, -1] - theirs[-1, -1]).max() <= 1  # where alpha is 255
    assert (ours[0, 0] == 255).all() and np.abs(ours - theirs).max() > 100


@pytest.mark.parametrize("name", ["one-pixel", "long", "photo", "odd"])
def test_patches_are_those_the_encoder_free_model_merges(name):
    merge = without_torchvision(
        "gemma4_unified/image_processing_gemma4_unified.py", "patches_merge", torch=torch, math=__import__("math")
    )
    pixels = decode_image(IMAGES[name])
    found = Gemma4ImageProcessorPil()(Pillow.fromarray(pixels), input_data_format="channels_last", return_tensors="pt")
    count = 9 * int(found["num_soft_tokens_per_image"][0])
    merged, places = merge(found["pixel_values"][:, :count], found["image_position_ids"][:, :count], count // 9)
    patches, xy = resize_to_patches(pixels, 48, 280)
    np.testing.assert_array_equal(patches.astype(np.float32) / 255, merged[0].numpy())
    np.testing.assert_array_equal(xy, places[0].numpy())


# Sound


def sound(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    """A gliding tone over noise, f32[n,channels]."""
    at = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(len(at)).normal(0, 0.05, (len(at), channels))
    return (0.6 * np.sin(2 * np.pi * (200 * at + 150 * at**2 / max(seconds, 1)))[:, None] + noise).astype(np.float32)


def sound_file(seconds: float, rate: int = 16_000, channels: int = 1, kind: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, sound(seconds, rate, channels), rate, format=kind)
    return file.getvalue()


def heard(window: np.ndarray) -> tuple[np.ndarray, int]:
    """What the reference makes of at most 30 s: its valid mel frames, and its number of soft tokens."""
    found = MEL([window])
    mask = found["input_features_mask"][0]
    return found["input_features"][0][mask], int(mask[::2][::2].sum())


@pytest.mark.parametrize("seconds", [0.05, 0.3, 1, 7.77, 30, 61])
@pytest.mark.parametrize(
    ("rate", "channels", "kind"),
    [
        (8_000, 1, "WAV"),
        (11_025, 2, "WAV"),
        (16_000, 1, "FLAC"),
        (16_000, 2, "WAV"),
        (22_050, 1, "WAV"),
        (44_100, 2, "FLAC"),
        (48_000, 1, "MP3"),
        (48_000, 2, "WAV"),
    ],
)
def test_sounds_are_the_references(tokenizer, seconds, rate, channels, kind):
    data = sound_file(seconds, rate, channels, kind)
    samples = decode_audio(data)
    windows = [samples[start : start + 480_000] for start in range(0, len(samples), 480_000)]
    clips = make_pieces((Audio(data),), Preprocessor(tokenizer, GEMMA4_E2B.media))
    assert len(clips) == len([window for window in windows if len(window) > 160])
    processor = types.SimpleNamespace(
        feature_extractor=MEL, audio_seq_length=750, compute_sscp=embedding_gemma2.EmbeddingGemma2Processor.compute_sscp
    )
    rules = [embedding_gemma2.EmbeddingGemma2Processor._compute_audio_num_tokens]
    rules += [gemma4.Gemma4Processor._compute_audio_num_tokens]
    for clip, window in zip(clips, windows, strict=False):
        frames, tokens = heard(window)
        assert isinstance(clip, AudioPiece) and clip.num_tokens == tokens
        assert all(rule(processor, window, 16_000) == tokens for rule in rules)
        np.testing.assert_allclose(clip.frames, frames, rtol=0, atol=1e-5)
    (clip,) = make_pieces((Audio(data),), Preprocessor(tokenizer, GEMMA4_12B.media))
    assert isinstance(clip, AudioPiece) and clip.num_tokens == len(clip.frames)
    np.testing.assert_array_equal(clip.frames, RAW(samples)["input_features"][0])


@pytest.mark.parametrize("samples", [161, 320, 321, 480, 481, 1599, 1600, 479_999, 480_000])
def test_every_length_has_the_references_frames(tokenizer, samples):
    frames, tokens = heard(sound(samples / 16_000, 16_000)[:, 0])
    (clip,) = make_pieces((Audio(sound_file(samples / 16_000)),), Preprocessor(tokenizer, EMBEDDINGGEMMA2.media))
    assert isinstance(clip, AudioPiece) and clip.frames.shape == frames.shape and clip.num_tokens == tokens


# Video

RATES = (Fraction(1), Fraction(5), Fraction(25, 2), Fraction(24_000, 1001), Fraction(25), Fraction(30_000, 1001))
RATES += (Fraction(60_000, 1001),)
sample_frames = without_torchvision(
    "embedding_gemma2/video_processing_embedding_gemma2.py", "sample_frames", np=np, logger=None
)
sampled = functools.partial(sample_frames, None, fps=1, max_frames=32, overflow_strategy="uniform")


@functools.cache
def video_file(rate: Fraction, seconds: float) -> bytes:
    """Frames of noise, each another."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for index in range(max(round(seconds * rate), 1)):
            noise = np.random.default_rng(index).integers(0, 256, (4, 6, 3), np.uint8).repeat(8, 0).repeat(8, 1)
            frame = av.VideoFrame.from_ndarray(noise, format="rgb24")
            frame.pts, frame.time_base = index, 1 / rate
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.parametrize("rate", RATES, ids=lambda rate: f"{float(rate):.3f}")
@pytest.mark.parametrize("seconds", [0.4, 1, 2.9, 10.02, 32, 33.5, 61])
def test_frames_and_their_times_are_the_references(tmp_path, rate, seconds):
    (tmp_path / "a.mp4").write_bytes(video_file(rate, seconds))
    theirs, metadata = video_utils.read_video_pyav(str(tmp_path / "a.mp4"), sampled)
    ours, times = decode_video(video_file(rate, seconds), 32)
    np.testing.assert_array_equal(ours, theirs)
    assert times.tolist() == [round(at) for at in metadata.timestamps]


@pytest.mark.parametrize("rate", RATES, ids=lambda rate: f"{float(rate):.3f}")
def test_the_seconds_looked_at_are_the_references(rate):
    """For any whole number of frames up to three minutes; but a millisecond short of a second counts as the second."""
    for count in range(1, int(180 * rate), 7):
        seconds = count / rate
        if 0 < -seconds % 1 <= Fraction(1, 1000):
            continue
        metadata = video_utils.VideoMetadata(total_num_frames=count, fps=float(rate), duration=float(seconds))
        expected = sampled(metadata)
        times = sample_times(float(seconds), 32)
        assert [int(at) * rate // 1 for at in times] == expected.tolist()


@pytest.mark.parametrize("most", [70, 140])
def test_a_videos_frames_are_cut_as_the_references_images(tokenizer, most):
    preprocessor = Preprocessor(tokenizer, (EMBEDDINGGEMMA2 if most == 140 else GEMMA4_12B).media)
    data = video_file(Fraction(25), 2.9)
    frames, _ = decode_video(data, 32)
    pieces = make_pieces((Video(data),), preprocessor)
    for frame, piece in zip(frames, pieces, strict=True):
        assert_same_patches(frame, most)
        assert isinstance(piece, ImagePiece)
        np.testing.assert_array_equal(piece.patches, resize_to_patches(frame, 48, most)[0])


# Token ids

NAMES = {
    "boi_token": "<|image>",
    "image_token": "<|image|>",
    "eoi_token": "<image|>",
    "video_token": "<|video|>",
    "boa_token": "<|audio>",
    "audio_token": "<|audio|>",
    "eoa_token": "<audio|>",
}
PROCESSORS = {
    "embeddinggemma2": (EMBEDDINGGEMMA2, embedding_gemma2.EmbeddingGemma2Processor, MEL),
    "gemma4_e2b": (GEMMA4_E2B, gemma4.Gemma4Processor, MEL),
    "gemma4_12b": (GEMMA4_12B, unified.Gemma4UnifiedProcessor, RAW),
}
TEXTS = [
    "a red square",
    " left of ",
    "größer als 12:30\n",
    "def f(x):\n    return x  ",
    "5",
    "e\u0301 日本語 🙂",
    "at 00:01",
    "\t?!",
]
ORDERS = [
    "t",
    "i",
    "a",
    "v",
    "ti",
    "it",
    "tit",
    "ita",
    "iatv",
    "vv",
    "vtv",
    "tvt",
    "atva",
    "titatvt",
    "iitaavt",
    "l",
    "tlt",
]


@pytest.fixture(scope="module", params=["trained", "gemma"])
def words(request):
    """A tokenizer as we train it, and one of the form of Gemma's: spaces are letters, nothing is split before it."""
    found = tokenizers.train_tokenizer([*TEXTS, "00:00 00:01 the left square is red 12:30 than"] * 20, 600)
    if request.param == "trained":
        return found
    form = json.loads(found.json)
    form["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    form["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"String": " "},
        "behavior": "MergedWithPrevious",
        "invert": False,
    }
    return tokenizers.Tokenizer(json.dumps(form))


def their_string(kind: str, order: str, texts: list[str]) -> str:
    """The prompt of an interleaving with its placeholders expanded by the reference's own rules."""
    arch, processor, extractor = PROCESSORS[kind]
    stand_in = types.SimpleNamespace(
        **NAMES,
        compute_sscp=embedding_gemma2.EmbeddingGemma2Processor.compute_sscp,
        timestamp_fmt=embedding_gemma2.EmbeddingGemma2Processor.timestamp_fmt,
        video_processor=types.SimpleNamespace(add_timestamps=arch.media.timestamps),
    )
    image = Gemma4ImageProcessorPil()(Pillow.fromarray(decode_image(IMAGES["odd"])))
    frames, times = decode_video(VIDEO, 32)
    frame = Gemma4ImageProcessorPil(max_soft_tokens=arch.media.frame_patches)(Pillow.fromarray(frames[0]))
    video = {
        "num_soft_tokens_per_video": frame["num_soft_tokens_per_image"],
        "num_frames_per_video": [len(frames)],
        "video_metadata": [video_utils.VideoMetadata(3, 1.0, frames_indices=times.tolist())],
    }
    more: dict[str, Any] = {"load_audio_from_video": False, "videos_kwargs": {}}

    def audio(samples: np.ndarray) -> str:
        return processor.replace_audio_token(stand_in, extractor([samples]), 0)

    long = decode_audio(LONG)
    size = arch.media.clip_tokens * 640
    made: dict[str, Callable[[], str]] = {
        "t": lambda: texts.pop(0),
        "i": lambda: processor.replace_image_token(stand_in, image, 0),
        "v": lambda: processor.replace_video_token(stand_in, video, 0, **more),
        "a": lambda: audio(decode_audio(SHORT)),
        "l": lambda: "".join(audio(long[start : start + size]) for start in range(0, len(long), size)),
    }
    return "".join(made[each]() for each in order)


VIDEO, SHORT, LONG = video_file(Fraction(5), 3), sound_file(0.77), sound_file(31.3)


@pytest.mark.parametrize("kind", PROCESSORS)
@pytest.mark.parametrize("order", ORDERS)
def test_token_ids_are_those_of_the_whole_prompt(words, kind, order):
    preprocessor = Preprocessor(words, PROCESSORS[kind][0].media)
    turn = ORDERS.index(order)
    texts = [TEXTS[(turn + i) % len(TEXTS)] for i in range(order.count("t"))]
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(words.json).backend)
    theirs.backend_tokenizer.encode_special_tokens = False
    expected = theirs(their_string(kind, order, list(texts)))["input_ids"]

    media = {"i": Image(IMAGES["odd"]), "v": Video(VIDEO), "a": Audio(SHORT), "l": Audio(LONG)}
    pieces = make_pieces(tuple(Text(texts.pop(0)) if each == "t" else media[each] for each in order), preprocessor)
    budget = standard_budget(pieces, words)
    laid = jax.tree.map(lambda leaf: leaf[0], make_rows([pieces], budget, preprocessor))
    count = int((laid.segments > 0).sum())
    assert laid.tokens[:count].tolist() == expected and count == num_tokens(pieces, words)

    holders = np.isin(laid.tokens, [words.image[1], words.video[1], words.audio[1]])
    np.testing.assert_array_equal(holders, laid.soft_token_index >= 0)
    assert len(set(laid.soft_token_index[holders].tolist())) == holders.sum()
    assert laid.soft_token_index.max() < budget.images * budget.patches + budget.clips * budget.frames
