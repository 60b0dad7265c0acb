"""Drawing of scenes and clips: PNG images and MP4 videos of 32 x 32 pixels.

Edges are smooth, and colors differ in hue, because a model that normalizes every patch cannot tell brightness.
"""

import colorsys
import functools
import io
import math
import random

import av
from PIL import Image, ImageDraw

SIDE = 32  # pixels
SUPERSAMPLING = 4  # everything is drawn this much larger and averaged down
HUES = {"red": 0, "orange": 32, "yellow": 54, "green": 125, "cyan": 182, "blue": 225, "purple": 272, "pink": 322}
RADII = {"small": 3.8, "large": 6.4}  # pixels
CORNERS = {  # angle in degrees and distance from the center in radii
    "square": [(45 + 90 * i, 1.2) for i in range(4)],
    "triangle": [(-90 + 120 * i, 1.2) for i in range(3)],
    "star": [(-90 + 36 * i, 1.2 if i % 2 == 0 else 0.5) for i in range(10)],
    "cross": [
        (90 * i + angle, distance) for i in range(4) for angle, distance in ((-20, 1.12), (20, 1.12), (45, 0.54))
    ],
}
NUM_FRAMES = 16
FRAME_RATE = 4  # per second
VELOCITIES = {  # motion -> direction in x and in y, growth
    "right": (1, 0, 0),
    "left": (-1, 0, 0),
    "up": (0, -1, 0),
    "down": (0, 1, 0),
    "falling": (1, 1, 0),
    "rising": (1, -1, 0),
    "grows": (0, 0, 1),
    "shrinks": (0, 0, -1),
}


def draw_scene(shape: str, color: str, size: str, column: int, row: int, background: str, rng: random.Random) -> bytes:
    """Draw a scene as PNG. `rng` shifts the object by less than a pixel and varies size, angle and shade a little."""
    image = _background(background).copy()
    x = 7 + 9 * column + rng.uniform(-0.7, 0.7)
    y = 7 + 9 * row + rng.uniform(-0.7, 0.7)
    _draw_shape(image, shape, _vary_color(color, rng), x, y, RADII[size] * rng.uniform(0.94, 1.06), rng.uniform(-8, 8))
    file = io.BytesIO()
    image.resize((SIDE, SIDE), Image.Resampling.BOX).save(file, "PNG")
    return file.getvalue()


def draw_clip(shape: str, color: str, size: str, motion: str, rng: random.Random) -> bytes:
    """Draw a clip as MP4 of 4 s. The motion ends at 3 s, so that one frame per second shows all of it."""
    shade = _vary_color(color, rng)
    radius = RADII[size] * rng.uniform(0.94, 1.06)
    angle = rng.uniform(-8, 8)
    offset = rng.uniform(-1, 1)  # perpendicular to the motion
    velocity_x, velocity_y, growth = VELOCITIES[motion]
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264", FRAME_RATE, options={"crf": "14", "preset": "veryfast", "g": "1", "threads": "1"}
        )
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        for i in range(NUM_FRAMES):
            progress = 2 * min(i / (3 * FRAME_RATE), 1) - 1  # -1 at 0 s, 1 from 3 s on
            image = _background("plain").copy()
            x = 16 + 9 * progress * velocity_x + offset * abs(velocity_y)
            y = 16 + 9 * progress * velocity_y + offset * abs(velocity_x)
            _draw_shape(image, shape, shade, x, y, radius * 1.6 ** (growth * progress), angle)
            frame = av.VideoFrame.from_image(image.resize((SIDE, SIDE), Image.Resampling.BOX))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def _vary_color(color: str, rng: random.Random) -> tuple[int, ...]:
    """Return an RGB color near the named one."""
    hue = (HUES[color] + rng.uniform(-4, 4)) / 360
    lightness = rng.uniform(0.46, 0.54)
    return tuple(round(255 * channel) for channel in colorsys.hls_to_rgb(hue % 1, lightness, 0.9))


def _draw_shape(image: Image.Image, shape: str, shade: tuple, x: float, y: float, radius: float, angle: float) -> None:
    """Draw a shape in place; center and radius in pixels, angle in degrees."""
    x, y, radius = x * SUPERSAMPLING, y * SUPERSAMPLING, radius * SUPERSAMPLING
    mask = Image.new("L", image.size, 0)
    draw = ImageDraw.Draw(mask)
    if shape in CORNERS:
        polar = [(math.radians(corner + angle), radius * distance) for corner, distance in CORNERS[shape]]
        draw.polygon([(x + r * math.cos(a), y + r * math.sin(a)) for a, r in polar], fill=255)
    else:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    if shape == "ring":
        hole = radius * 0.55
        draw.ellipse((x - hole, y - hole, x + hole, y + hole), fill=0)
    image.paste(shade, mask=mask)


@functools.cache
def _background(texture: str) -> Image.Image:
    """Draw a white background, or one with light gray stripes or dots whose period is no multiple of a patch."""
    side = SIDE * SUPERSAMPLING
    gray = (198, 198, 198)
    steps = range(0, side, 5 * SUPERSAMPLING)
    image = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(image)
    for y in steps if texture != "plain" else ():
        if texture == "striped":
            draw.rectangle((0, y, side, y + 2 * SUPERSAMPLING - 1), fill=gray)
        else:
            for x in steps:
                draw.ellipse((x, y, x + 2.4 * SUPERSAMPLING, y + 2.4 * SUPERSAMPLING), fill=gray)
    return image
