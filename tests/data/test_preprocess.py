"""Parts to a row: how many soft tokens a sound has, when a frame was shown, what a model does not take, what is cut."""

import dataclasses
import io
import math

import av
import jax
import numpy as np
import pypdfium2
import pytest
import soundfile
from PIL import Image as Pillow

from embed.batch import Inputs, MediaFormat
from embed.data.budget import Budget, num_tokens, standard_budget, truncate_to
from embed.data.collate import make_padding_rows, make_rows
from embed.data.media.decode import MediaError, frame_audio
from embed.data.media.mel import log_mel
from embed.data.modalities import VIDEO, Audio, Image, Pdf, Text, Video
from embed.data.pieces import AudioPiece, ImagePiece, LimitError, TextPiece
from embed.data.preprocess import Preprocessor, cut_to_pieces, make_pieces
from embed.model.presets import EMBEDDINGGEMMA2, GEMMA4_12B, GEMMA4_E2B, PUBLISHED

FORM = MediaFormat(
    patch_size=8,
    max_patches_per_side=64,
    image_patches=16,
    frame_patches=4,
    timestamps=True,
    audio_frame_size=640,
    mel_bins=16,
    clip_tokens=5,
)
NOISE = np.random.default_rng(0).normal(0, 0.1, 200_000).astype(np.float32)
FRAMES = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)


def row(pieces, budget: Budget, preprocessor: Preprocessor) -> Inputs:
    return jax.tree.map(lambda leaf: leaf[0], make_rows([pieces], budget, preprocessor))


def image(height: int, width: int) -> Image:
    file = io.BytesIO()
    Pillow.new("RGB", (width, height), (1, 2, 3)).save(file, "PNG")
    return Image(file.getvalue())


def sound(samples: np.ndarray) -> Audio:
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format="WAV", subtype="FLOAT")
    return Audio(file.getvalue())


def video(seconds: int) -> Video:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(5 * seconds):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        out.mux(stream.encode(None))
    return Video(file.getvalue())


def pdf() -> Pdf:
    file, document = io.BytesIO(), pypdfium2.PdfDocument.new()
    document.new_page(200, 150)
    document.save(file)
    return Pdf(file.getvalue())


@pytest.fixture
def towers(tokenizer) -> Preprocessor:
    """Mel frames, clips of 3,200 samples, timestamps."""
    return Preprocessor(tokenizer, FORM)


def sounds(preprocessor: Preprocessor, samples: int) -> list[AudioPiece]:
    return [piece for piece in make_pieces((sound(NOISE[:samples]),), preprocessor) if isinstance(piece, AudioPiece)]


@pytest.mark.parametrize("frames", [1, 3, 4, 5, 8, 9, 18])
def test_four_mel_frames_are_a_soft_token(towers, frames):
    (clip,) = sounds(towers, 160 * frames + 1)
    assert clip.frames.shape == (frames, 16) and clip.num_tokens == -(-frames // 4)
    assert num_tokens([clip], towers.tokenizer) == 4 + clip.num_tokens  # begin, end, <bos>, <eos>
    budget = standard_budget([clip], towers.tokenizer)
    assert budget.clips == 1 and clip.num_tokens <= budget.frames < 2 * clip.num_tokens
    laid = row([clip], budget, towers)
    assert laid.audio.shape == (1, 4 * budget.frames, 16) and laid.audio_mask.sum() == frames
    np.testing.assert_array_equal(laid.audio[laid.audio_mask], clip.frames)
    assert laid.soft_token_index[laid.soft_token_index >= 0].tolist() == list(range(clip.num_tokens))


def test_a_raw_frame_is_a_soft_token(preprocessor):
    (clip,) = sounds(preprocessor, 1281)
    np.testing.assert_array_equal(clip.frames, frame_audio(NOISE[:1281]))
    assert clip.num_tokens == 3
    assert make_padding_rows(5, Budget(8, clips=2, frames=3), preprocessor.media).audio.shape == (5, 2, 3, 640)


@pytest.mark.parametrize(("samples", "clips"), [(3200, 1), (3201, 1), (3360, 1), (3361, 2), (6400, 2), (7000, 3)])
def test_a_long_sound_becomes_clips_heard_apart(towers, samples, clips):
    found = sounds(towers, samples)
    assert [clip.continued for clip in found] == [number > 0 for number in range(clips)]
    for number, clip in enumerate(found):
        np.testing.assert_array_equal(
            clip.frames, log_mel(NOISE[3200 * number : min(3200 * (number + 1), samples)], 16)
        )
    laid = row(found, Budget(64, images=2, patches=3, clips=4, frames=5), towers)
    places = laid.soft_token_index[laid.soft_token_index >= 0].tolist()
    assert places == [2 * 3 + 5 * number + i for number, clip in enumerate(found) for i in range(clip.num_tokens)]
    begin, _, end = towers.tokenizer.audio
    assert (laid.tokens == begin).sum() == (laid.tokens == end).sum() == clips


def test_a_sound_too_short_for_a_frame_is_refused(towers, preprocessor):
    with pytest.raises(MediaError, match=r"audio of 10.0 ms is too short: need at least 10.1 ms"):
        sounds(towers, 160)
    assert sounds(preprocessor, 160)[0].num_tokens == 1


@pytest.mark.parametrize(
    ("arch", "seconds", "tokens"),
    [
        (EMBEDDINGGEMMA2, 30, [750]),
        (GEMMA4_E2B, 180, [750] * 6),
        (GEMMA4_E2B, 31, [750, 25]),
        (GEMMA4_12B, 180, [4500]),
        (GEMMA4_12B, 31, [775]),
    ],
)
def test_published_models_hear_three_minutes(tokenizer, arch, seconds, tokens):
    clips = make_pieces((sound(np.zeros(16_000 * seconds, np.float32)),), Preprocessor(tokenizer, arch.media))
    assert [clip.num_tokens for clip in clips if isinstance(clip, AudioPiece)] == tokens


def test_sounds_are_cut_to_the_budget(towers):
    clips = sounds(towers, 8000)
    (cut,) = truncate_to(list(clips), Budget(64, clips=1, frames=2), towers.tokenizer)
    assert isinstance(cut, AudioPiece) and cut.num_tokens == 2
    np.testing.assert_array_equal(cut.frames, clips[0].frames[:8])
    assert len(truncate_to(list(clips), Budget(64, clips=2, frames=5), towers.tokenizer)) == 2
    with pytest.raises(LimitError, match=r"2 audio clips \(at most 1\)"):
        truncate_to([*clips, *sounds(towers, 900)], Budget(64, clips=1, frames=5), towers.tokenizer)


def test_a_frame_says_when_it_was_shown(towers):
    pieces = cut_to_pieces(VIDEO, (FRAMES, [0, 1, 59.9, 60, 3599]), towers)
    said = ["00:00 ", " 00:01 ", " 00:59 ", " 01:00 ", " 59:59 "]
    assert [piece.prefix_ids for piece in pieces if isinstance(piece, ImagePiece)] == [
        tuple(towers.tokenizer.encode(text)) for text in said
    ]
    laid = row(pieces[:2], Budget(64, images=2, patches=4), towers)
    begin, place, end = towers.tokenizer.video
    encode = towers.tokenizer.encode
    ids = [*encode("00:00 "), begin, *[place] * 4, end, *encode(" 00:01 "), begin, *[place] * 4, end]
    whole = [*towers.tokenizer.prefix, *ids, *towers.tokenizer.suffix]
    assert laid.tokens[: len(whole)].tolist() == whole and num_tokens(pieces[:2], towers.tokenizer) == len(whole)
    assert (
        laid.soft_token_index[laid.tokens == place].tolist() == list(range(8))
        and (laid.soft_token_index >= 0).sum() == 8
    )


def test_a_model_without_timestamps_has_none(preprocessor):
    assert all(
        isinstance(piece, ImagePiece) and piece.prefix_ids == ()
        for piece in cut_to_pieces(VIDEO, (FRAMES, range(5)), preprocessor)
    )


def test_a_dropped_frame_takes_its_time_along(towers):
    pieces = cut_to_pieces(VIDEO, (FRAMES, range(5)), towers)
    kept = truncate_to([*pieces, TextPiece((30, 31))], Budget(64, images=3, patches=4), towers.tokenizer)
    assert kept[:3] == [pieces[0], pieces[2], pieces[4]] and kept[3] == TextPiece((30, 31))
    room = 4 + sum(len(piece.prefix_ids) + 6 for piece in kept[:3] if isinstance(piece, ImagePiece))
    (*_, words) = truncate_to([*pieces, TextPiece((30, 31, 32))], Budget(room, images=3, patches=4), towers.tokenizer)
    assert words == TextPiece((30, 31))


def test_a_video_is_decoded_at_its_seconds(towers):
    pieces = make_pieces((video(3),), towers)
    stamps = [tuple(towers.tokenizer.encode(text)) for text in ("00:00 ", " 00:01 ", " 00:02 ")]
    assert [piece.prefix_ids for piece in pieces if isinstance(piece, ImagePiece)] == stamps
    assert all(isinstance(piece, ImagePiece) and len(piece.xy) == 4 for piece in pieces)
    assert all(
        isinstance(piece, ImagePiece) and len(piece.xy) == 1 for piece in make_pieces((video(1),), towers, patches=2)
    )


def test_a_video_that_is_given_as_sound_too_is_seen_and_heard(towers):
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        seen, heard = out.add_stream("mpeg4", rate=5), out.add_stream("aac", rate=48_000, layout="mono")
        seen.width, seen.height, seen.pix_fmt = 32, 32, "yuv420p"
        tone = np.sin(np.arange(3 * 48_000) / 20).astype(np.float32)[None]
        for start in range(0, 3 * 48_000, 1024):
            part = av.AudioFrame.from_ndarray(tone[:, start : start + 1024], format="fltp", layout="mono")
            part.sample_rate, part.pts = 48_000, start
            out.mux(heard.encode(part))
        for _ in range(15):
            out.mux(seen.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        out.mux([*heard.encode(None), *seen.encode(None)])
    pieces = make_pieces((Video(file.getvalue()), Audio(file.getvalue())), towers)
    kinds = [type(piece) for piece in pieces]
    assert kinds[:3] == [ImagePiece] * 3 and set(kinds[3:]) == {AudioPiece}
    assert abs(sum(len(piece.frames) for piece in pieces[3:]) - 300) < 20  # of 10 ms, less at each clip's end


@pytest.mark.parametrize(
    ("part", "kind"), [(image(9, 9), "images"), (video(1), "video"), (pdf(), "PDF"), (sound(NOISE), "audio")]
)
def test_what_a_model_does_not_take_is_named(tokenizer, part, kind):
    reads = Preprocessor(tokenizer, dataclasses.replace(FORM, patch_size=0, audio_frame_size=0, mel_bins=0))
    with pytest.raises(LimitError, match=f"this model takes no {kind}"):
        make_pieces((Text("a"), part), reads)
    with pytest.raises(LimitError, match="this model takes no video"):
        cut_to_pieces(VIDEO, (FRAMES, range(5)), reads)
    pieces = make_pieces((Text("a red square"),), reads)
    laid = row(pieces, Budget(16, images=1, patches=2, clips=1, frames=2), reads)
    assert laid.patches.shape == (0, 2, 0) and laid.audio.shape == (1, 2, 0) and (laid.soft_token_index == -1).all()


def test_an_image_of_too_many_patches_in_a_row_is_refused(towers):
    with pytest.raises(LimitError, match="image is 65 patches long: at most 64"):
        make_pieces((image(1, 400),), towers, patches=65)
    with pytest.raises(LimitError, match="image is 4 patches long: at most 3"):
        narrow = Preprocessor(towers.tokenizer, dataclasses.replace(FORM, max_patches_per_side=3))
        cut_to_pieces(VIDEO, (np.zeros((1, 99, 3, 3), np.uint8), [0]), narrow)
    (piece,) = make_pieces((image(1, 400),), towers, patches=64)
    assert isinstance(piece, ImagePiece) and piece.xy.max() == 63


@pytest.mark.parametrize("arch", PUBLISHED.values(), ids=PUBLISHED)
def test_one_pixel_is_an_image(tokenizer, arch):
    (piece,) = make_pieces((image(1, 1),), Preprocessor(tokenizer, arch.media))
    side = math.isqrt(arch.media.image_patches)  # the largest square within the model's soft tokens
    assert isinstance(piece, ImagePiece) and len(piece.xy) == side**2
    assert piece.patches.shape == (side**2, 3 * arch.media.patch_size**2)
    pixels = piece.patches.reshape(-1, 3)
    np.testing.assert_array_equal(pixels, np.tile([1, 2, 3], (len(pixels), 1)))


def test_without_images_in_the_model_sounds_come_first_whatever_the_budget(tokenizer):
    hearing = Preprocessor(tokenizer, dataclasses.replace(FORM, patch_size=0, mel_bins=0))
    one = row([AudioPiece(np.ones((2, 640), np.float32))], Budget(8, images=3, patches=4, clips=1, frames=2), hearing)
    assert one.patches.size == 0 and sorted(set(one.soft_token_index.tolist())) == [-1, 0, 1]
