"""Unicode character names <-> rendered glyphs, from the fonts the plotting library ships. Split by name."""

import functools
import hashlib
import io
import random
import unicodedata
from collections import defaultdict
from collections.abc import Iterator

import matplotlib
import numpy as np
from fontTools.ttLib import TTFont
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from embed.data.records import Image, Record, Text

FONTS = ("DejaVuSans", "DejaVuSerif", "DejaVuSans-Bold", "DejaVuSansMono")
SIDE = 32  # pixels
LIMITS = {"train": 3000, "dev": 100, "test": 300}


def split_of(name: str) -> str:
    """The side a character is on, by a hash of its name."""
    bucket = int(hashlib.md5(name.encode()).hexdigest(), 16) % 100
    return "test" if bucket < 12 else "dev" if bucket < 17 else "train"


@functools.cache
def characters() -> dict[str, str]:
    """Name -> character, for letters, digits and symbols that every one of the fonts has."""
    sets = [set(TTFont(_path(font)).getBestCmap()) for font in FONTS]
    kept = sorted(set.intersection(*sets))
    return {unicodedata.name(chr(c)).lower(): chr(c) for c in kept if unicodedata.category(chr(c))[0] in "LNSP"}


def _path(font: str) -> str:
    return f"{matplotlib.get_data_path()}/fonts/ttf/{font}.ttf"


@functools.cache
def _font(name: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_path(name), 24)


@functools.lru_cache(65536)
def glyph(character: str, font: str) -> bytes:
    """A 32x32 PNG of one character in the middle."""
    picture = Pillow.new("RGB", (SIDE, SIDE), "white")
    ImageDraw.Draw(picture).text((SIDE / 2, SIDE / 2), character, "black", _font(font), anchor="mm")
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def _blank(png: bytes) -> bool:
    return np.asarray(Pillow.open(io.BytesIO(png))).min() > 128


def glyphs(split: str) -> Iterator[Record]:
    """Name -> picture; in training in every font, with a glyph of a similar name as the hard negative."""
    names = [name for name in characters() if split_of(name) == split]
    random.Random(split).shuffle(names)
    by_word: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_word[" ".join(name.split()[:3])].append(name)
    seen: set[bytes] = set()
    for i, name in enumerate(names[: LIMITS[split]]):
        rng = random.Random(f"glyphs {split} {name}")
        for font in rng.sample(FONTS, 2) if split == "train" else FONTS[:1]:
            picture = glyph(characters()[name], font)
            if picture in seen or _blank(picture):
                continue
            seen.add(picture)
            near = [other for other in by_word[" ".join(name.split()[:3])] if other != name] or [names[i - 1]]
            other = glyph(characters()[rng.choice(near)], font)
            negatives = ((Image(other),),) if split == "train" and other != picture else ()
            if split == "train" and not negatives:
                continue
            yield Record(f"glyphs-{split}-{name}-{font}", (Text(name),), (Image(picture),), negatives, "en")
