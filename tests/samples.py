"""A file of every kind, files that cannot be embedded, and a run's folder to embed them with."""

import io
import pathlib
import struct

import av
import jax
import numpy as np
import pypdfium2
import soundfile
from conftest import ARCH
from PIL import Image as Pillow

from embed.data.media.decode import MediaError
from embed.data.pieces import LimitError
from embed.data.preprocess import Preprocessor
from embed.distributed.mesh import make_mesh
from embed.model.build import build
from embed.model.encoder import init_params
from embed.training import checkpoint
from embed.training.metadata import metadata_for

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (24, 32, 3), np.uint8)
FRAMES = RNG.integers(0, 256, (2, 24, 32, 3), np.uint8)
SOUND = (0.5 * np.sin(np.arange(3200) / 7)).astype(np.float32)  # 5 soft tokens


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def wav(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format="WAV", subtype="PCM_16")
    return file.getvalue()


def pdf(pages: int = 1) -> bytes:
    file, document = io.BytesIO(), pypdfium2.PdfDocument.new()
    for _ in range(pages):
        document.new_page(200, 150)
    document.save(file)
    return file.getvalue()


def mp4(frames: np.ndarray | None) -> bytes:
    """Frames at one a second; none: a sound alone."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        if frames is None:
            sound = out.add_stream("aac", rate=48_000, layout="mono")
            tone = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            tone.sample_rate, tone.pts = 48_000, 0
            out.mux([*sound.encode(tone), *sound.encode(None)])
        else:
            stream = out.add_stream("libx264", rate=1)
            stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
            for frame in [*(av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in frames), None]:
                out.mux(stream.encode(frame))
    return file.getvalue()


FILES = {
    "photo.png": png(PHOTO),
    "tone.wav": wav(SOUND),
    "clip.mp4": mp4(FRAMES),
    "page.pdf": pdf(),
    "note.txt": b"a red square on the left",
    "code.py": b"def f(x): return x\n",
}

BAD = [
    ("a.png", png(PHOTO)[:200], MediaError, "truncated"),
    ("a.png", b"", ValueError, "empty file"),
    ("a.txt", b"", ValueError, "empty file"),
    ("a.txt", b"x" * 1_000_000, LimitError, " characters is too long: at most 393,216"),
    ("a.txt", b"caf\xe9", ValueError, "neither a known media file nor text: not UTF-8 text"),
    ("a.wav", wav(SOUND)[:40] + struct.pack("<I", 2**30) + wav(SOUND)[44:], MediaError, "claims 1,073,741,824"),
    ("a.mp4", mp4(FRAMES)[:200], MediaError, "broken, truncated"),
    ("a.png", b"a red square", ValueError, "a.png holds text, but its name ends in .png: rename it"),
    ("a.txt", png(PHOTO), ValueError, "a.txt holds a PNG image, but its name is not that"),
    ("a.pdf", b"%PDF-1.4 no", MediaError, "cannot be read"),
    ("a.png", None, ValueError, "No such file"),
    ("", None, ValueError, "not a file"),
]


def save(folder: pathlib.Path, tokenizer, seed: int) -> None:
    """Parameters by numpy: compiling their initialization would take most of this file's time."""
    preprocessor = Preprocessor(tokenizer, ARCH.media)
    rng = np.random.default_rng(seed)
    with jax.set_mesh(make_mesh((1, 1, 1))), checkpoint.checkpointer(folder, every=1, keep=1) as saver:
        shapes = jax.eval_shape(lambda: init_params(build(ARCH), jax.random.key(0)))
        params = jax.tree.map(lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(leaf.dtype), shapes)
        saver.save(1, {"encoder": params}, custom_metadata=metadata_for(ARCH, preprocessor), force=True)
    tokenizer.save(folder / "tokenizer.json")
