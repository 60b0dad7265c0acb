"""How the world of `scenes` looks: PNG pictures and MP4 clips of 32 x 32 pixels, a function of what they show.

Edges are smooth and colours differ in hue: a model that normalises every patch cannot see brightness alone.
"""

import colorsys
import functools
import io
import math
import random

import av
from PIL import Image, ImageDraw

SIDE = 32  # pixels
SUPERSAMPLING = 4  # everything is drawn larger by this and averaged down
HUES = {"red": 0, "orange": 32, "yellow": 54, "green": 125, "cyan": 182, "blue": 225, "purple": 272, "pink": 322}
RADII = {"small": 3.8, "large": 6.4}  # pixels
CORNERS = {  # angle in degrees and distance from the centre, in radii
    "square": [(45 + 90 * i, 1.2) for i in range(4)],
    "triangle": [(-90 + 120 * i, 1.2) for i in range(3)],
    "star": [(-90 + 36 * i, 1.2 if i % 2 == 0 else 0.5) for i in range(10)],
    "cross": [(90 * i + turn, far) for i in range(4) for turn, far in ((-20, 1.12), (20, 1.12), (45, 0.54))],
}
FRAMES, RATE = 16, 4  # of a clip, and a second
VELOCITIES = {  # motion -> direction on the screen, growth
    "right": (1, 0, 0),
    "left": (-1, 0, 0),
    "up": (0, -1, 0),
    "down": (0, 1, 0),
    "falling": (1, 1, 0),
    "rising": (1, -1, 0),
    "grows": (0, 0, 1),
    "shrinks": (0, 0, -1),
}


def draw_scene(shape: str, colour: str, size: str, column: int, row: int, background: str, rng: random.Random) -> bytes:
    """A PNG. `rng` moves the object by less than a pixel and varies its size, its angle and its shade a little."""
    picture = _background(background).copy()
    x, y = (7 + 9 * place + rng.uniform(-0.7, 0.7) for place in (column, row))
    _draw_shape(
        picture, shape, _vary_color(colour, rng), x, y, RADII[size] * rng.uniform(0.94, 1.06), rng.uniform(-8, 8)
    )
    file = io.BytesIO()
    picture.resize((SIDE, SIDE), Image.Resampling.BOX).save(file, "PNG")
    return file.getvalue()


def draw_clip(shape: str, colour: str, size: str, motion: str, rng: random.Random) -> bytes:
    """An MP4 of 4 s. The motion is over at 3 s, so that a model which sees one frame a second sees all of it."""
    shade, radius, angle = _vary_color(colour, rng), RADII[size] * rng.uniform(0.94, 1.06), rng.uniform(-8, 8)
    aside, (across, down, growth) = rng.uniform(-1, 1), VELOCITIES[motion]
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264", RATE, options={"crf": "14", "preset": "veryfast", "g": "1", "threads": "1"}
        )
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        for i in range(FRAMES):
            along = 2 * min(i / (3 * RATE), 1) - 1  # -1 at 0 s, 1 from 3 s on
            picture = _background("plain").copy()
            x, y = 16 + 9 * along * across + aside * abs(down), 16 + 9 * along * down + aside * abs(across)
            _draw_shape(picture, shape, shade, x, y, radius * 1.6 ** (growth * along), angle)
            frame = av.VideoFrame.from_image(picture.resize((SIDE, SIDE), Image.Resampling.BOX))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def _vary_color(colour: str, rng: random.Random) -> tuple[int, ...]:
    """An RGB colour near the named one."""
    hue, light = (HUES[colour] + rng.uniform(-4, 4)) / 360, rng.uniform(0.46, 0.54)
    return tuple(round(255 * c) for c in colorsys.hls_to_rgb(hue % 1, light, 0.9))


def _draw_shape(
    picture: Image.Image, shape: str, shade: tuple, x: float, y: float, radius: float, angle: float
) -> None:
    """Draws a shape in place, its centre and radius in pixels, turned by degrees."""
    x, y, radius = x * SUPERSAMPLING, y * SUPERSAMPLING, radius * SUPERSAMPLING
    mask = Image.new("L", picture.size, 0)
    draw = ImageDraw.Draw(mask)
    if shape in CORNERS:
        turned = [(math.radians(corner + angle), radius * far) for corner, far in CORNERS[shape]]
        draw.polygon([(x + far * math.cos(a), y + far * math.sin(a)) for a, far in turned], fill=255)
    else:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    if shape == "ring":
        hole = radius * 0.55
        draw.ellipse((x - hole, y - hole, x + hole, y + hole), fill=0)
    picture.paste(shade, mask=mask)


@functools.cache
def _background(texture: str) -> Image.Image:
    """White, with light grey stripes or dots of a period that is no multiple of a patch."""
    side, grey, steps = SIDE * SUPERSAMPLING, (198, 198, 198), range(0, SIDE * SUPERSAMPLING, 5 * SUPERSAMPLING)
    picture = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(picture)
    for y in steps if texture != "plain" else ():
        if texture == "striped":
            draw.rectangle((0, y, side, y + 2 * SUPERSAMPLING - 1), fill=grey)
        else:
            for x in steps:
                draw.ellipse((x, y, x + 2.4 * SUPERSAMPLING, y + 2.4 * SUPERSAMPLING), fill=grey)
    return picture
