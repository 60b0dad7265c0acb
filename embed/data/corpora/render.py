"""How the world of `scenes` looks and sounds: PNG pictures, MP4 clips and FLAC melodies, small and exact."""

import io
import math
import random
from typing import TYPE_CHECKING

import av
import numpy as np
import soundfile
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from embed.data.corpora.scenes import Clip, Melody, Scene

SIDE = 32  # pixels
FINE = 4  # drawn larger by this factor, then reduced: smooth edges
RGB = {
    "red": (220, 30, 30),
    "orange": (245, 140, 20),
    "yellow": (235, 215, 30),
    "green": (40, 160, 50),
    "cyan": (40, 190, 200),
    "blue": (40, 70, 220),
    "purple": (140, 50, 180),
    "black": (25, 25, 25),
}
RADIUS = {"small": 3.6, "large": 6.4}
FRAMES, RATE = 16, 4  # of a clip, and a second
SAMPLE_RATE = 16_000
NOTE = {"fast": 4 * 640, "slow": 7 * 640}  # samples; a note fills whole 40 ms frames
HARMONICS = {
    "sine": {1: 1.0},
    "square": {1: 1.0, 3: 1 / 3, 5: 1 / 5},
    "saw": {k: 1 / k for k in range(1, 6)},
    "organ": {1: 1.0, 2: 0.8, 4: 0.6},
}


def image(scene: "Scene", rng: random.Random) -> bytes:
    """A 32x32 PNG; `rng` moves the object by up to a pixel and shades its colour a little."""
    picture = Image.new("RGB", (SIDE * FINE, SIDE * FINE), "white")
    draw = ImageDraw.Draw(picture)
    _ground(draw, scene.ground)
    x, y = (7 + 9 * place + rng.uniform(-0.7, 0.7) for place in scene.place)
    _shape(draw, scene.shape, _shade(scene.colour, rng), x, y, RADIUS[scene.size] * rng.uniform(0.94, 1.06))
    out = io.BytesIO()
    picture.resize((SIDE, SIDE), Image.Resampling.BOX).save(out, "PNG")
    return out.getvalue()


def video(clip: "Clip", rng: random.Random) -> bytes:
    """A 32x32 MP4 of 4 s, 4 frames a second; the motion shows in the frames at 0, 1, 2 and 3 s."""
    colour, radius, out = _shade(clip.colour, rng), RADIUS[clip.size] * rng.uniform(0.94, 1.06), io.BytesIO()
    drift = rng.uniform(-0.7, 0.7)
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("libx264", RATE, options={"crf": "12", "preset": "ultrafast", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"  # type: ignore[attr-defined]
        for i in range(FRAMES):
            along = i / (FRAMES - 1)
            go = 18 * along - 9
            x, y, scale = {
                "right": (go, 0, 1),
                "left": (-go, 0, 1),
                "up": (0, -go, 1),
                "down": (0, go, 1),
                "rising": (go, -go, 1),
                "falling": (go, go, 1),
                "grows": (0, 0, 0.5 + 1.3 * along),
                "shrinks": (0, 0, 1.8 - 1.3 * along),
            }[clip.motion]
            picture = Image.new("RGB", (SIDE * FINE, SIDE * FINE), "white")
            _shape(ImageDraw.Draw(picture), clip.shape, colour, 16 + x + drift, 16 + y + drift, radius * scale)
            frame = av.VideoFrame.from_image(picture.resize((SIDE, SIDE), Image.Resampling.BOX))
            container.mux(stream.encode(frame))  # type: ignore[attr-defined]
        container.mux(stream.encode())  # type: ignore[attr-defined]
    return out.getvalue()


def audio(melody: "Melody", rng: random.Random) -> bytes:
    """A mono FLAC at 16 kHz: three notes, each from phase zero, faint noise behind them."""
    time = np.arange(NOTE[melody.tempo]) / SAMPLE_RATE
    waves = []
    for pitch in (melody.a, melody.b, melody.c):
        parts = HARMONICS[melody.timbre].items()
        wave = sum(gain * np.sin(2 * np.pi * k * pitch * time) for k, gain in parts if k * pitch < SAMPLE_RATE / 2)
        waves.append(wave / np.abs(wave).max())
    sound = np.concatenate(waves) * rng.uniform(0.4, 0.8)
    noise = np.random.default_rng(rng.randrange(2**32)).normal(0, 0.004, sound.shape)
    out = io.BytesIO()
    soundfile.write(out, sound + noise, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return out.getvalue()


def _shade(colour: str, rng: random.Random) -> tuple[int, ...]:
    return tuple(max(0, min(255, c + rng.randint(-12, 12))) for c in RGB[colour])


def _ground(draw: ImageDraw.ImageDraw, ground: str) -> None:
    side, light = SIDE * FINE, (205, 205, 205)
    if ground == "striped":
        for at in range(0, side, 16):
            draw.rectangle((at, 0, at + 5, side), fill=light)
    elif ground == "dotted":
        for x in range(0, side, 16):
            for y in range(0, side, 16):
                draw.ellipse((x + 3, y + 3, x + 12, y + 12), fill=light)


def _shape(draw: ImageDraw.ImageDraw, shape: str, colour: tuple, x: float, y: float, radius: float) -> None:
    x, y, r = x * FINE, y * FINE, radius * FINE
    box = (x - r, y - r, x + r, y + r)

    def around(radii: list[float]) -> list[tuple[float, float]]:
        turn = 2 * math.pi / len(radii)
        return [(x + s * math.sin(i * turn), y - s * math.cos(i * turn)) for i, s in enumerate(radii)]

    if shape == "circle":
        draw.ellipse(box, fill=colour)
    elif shape == "square":
        draw.rectangle((x - 0.86 * r, y - 0.86 * r, x + 0.86 * r, y + 0.86 * r), fill=colour)
    elif shape == "triangle":
        draw.polygon(around([1.15 * r] * 3), fill=colour)
    elif shape == "star":
        draw.polygon(around([1.15 * r, 0.48 * r] * 5), fill=colour)
    elif shape == "cross":
        draw.rectangle((x - r, y - 0.34 * r, x + r, y + 0.34 * r), fill=colour)
        draw.rectangle((x - 0.34 * r, y - r, x + 0.34 * r, y + r), fill=colour)
    else:
        draw.ellipse(box, outline=colour, width=max(2, round(0.42 * r)))
