"""Names of characters -> their glyphs, from the fonts that the plotting library ships. Split by name."""

import collections
import functools
import io
import pathlib
import random
import unicodedata
from collections.abc import Iterator

import matplotlib
import numpy as np
from fontTools.ttLib import TTFont
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from embed.data.modalities import Content, Image, Text
from embed.data.records import Record
from embed.toy_corpora.splits import by_rank

DEV, TEST = 100, 300  # names
FONTS = (  # a character is tested in the first of them that has it
    *("DejaVuSans", "STIXGeneral", "DejaVuSerif", "DejaVuSansMono", "DejaVuSans-Bold"),
    *("DejaVuSerif-Bold", "DejaVuSans-Oblique", "STIXGeneralItalic"),
)
STYLES = 2  # fonts of a character in training at most
SIDE, SIZE, BASELINE = 32, 22, 24  # pixels
SENTENCES = ("{}", "{}", "{}", "the character {}", "unicode: {}", "what does {} look like?")


@functools.cache
def characters() -> dict[str, str]:
    """Name -> letter, digit, sign or symbol; of several that look the same in their first font, the first only."""
    found: dict[str, str] = {}
    looks: set[bytes] = set()
    for code in sorted(set().union(*(_covered(font) for font in FONTS))):
        character = chr(code)
        name = unicodedata.name(character, "").lower()
        if name and unicodedata.category(character)[0] in "LNPS":
            look = _first(character)
            if look and look not in looks:
                looks.add(look)
                found[name] = character
    return found


def fonts_of(character: str) -> list[str]:
    """The fonts that have the character; there is one at least."""
    return [font for font in FONTS if ord(character) in _covered(font)]


@functools.cache
def glyph(character: str, font: str) -> bytes:
    """A PNG of SIDE x SIDE grey pixels, on a common baseline; empty where the glyph is blank or does not fit."""
    picture = Pillow.new("L", (SIDE, SIDE), 255)
    left, top, right, bottom = _font(font).getbbox(character, anchor="ls")
    if right - left > SIDE or top + BASELINE < 0 or bottom + BASELINE > SIDE:
        return b""
    place = ((SIDE - left - right) / 2, BASELINE)
    ImageDraw.Draw(picture).text(place, character, fill=0, font=_font(font), anchor="ls")
    if picture.histogram()[:128] == [0] * 128:
        return b""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def glyphs(split: str) -> Iterator[Record]:
    """Name -> glyph. In training in several fonts, against the glyph whose name shares the most words with it."""
    side = by_rank(characters(), DEV, TEST)
    names = [name for name in side if side[name] == split]
    twins = _twins(names) if split == "train" else {}
    seen: set[bytes] = set()
    for name in names:
        character, rng = characters()[name], random.Random(f"glyphs {name}")
        first, *others = fonts_of(character)
        more = rng.sample(others, min(STYLES - 1, len(others))) if split == "train" else []
        for font in (first, *more):
            look = _style(character, font)
            if look in seen:
                continue
            seen.add(look)
            negatives: tuple[Content, ...] = ()
            if split == "train":
                twin = characters()[twins[name]]
                other = _style(twin, font)
                negatives = ((Image(other if other != look else _first(twin)),),)
            query = (Text(rng.choice(SENTENCES).format(name)),)
            yield Record(f"glyphs/{name}/{font}", query, (Image(look),), negatives, "en")


def _first(character: str) -> bytes:
    """The glyph in the first font that has it: the one that is tested, unlike that of any other character."""
    return glyph(character, fonts_of(character)[0])


@functools.cache
def _firsts() -> frozenset[bytes]:
    return frozenset(_first(character) for character in characters().values())


def _style(character: str, font: str) -> bytes:
    """The glyph in a font; in its first where that one lacks it, or shows what may be the test of another character."""
    look = glyph(character, font) if ord(character) in _covered(font) else b""
    return look if look and look not in _firsts() else _first(character)


def _twins(names: list[str]) -> dict[str, str]:
    """name -> the other name with the largest share of words in common."""
    words = [set(name.split()) for name in names]
    length = np.array([len(each) for each in words])
    places: dict[str, list[int]] = collections.defaultdict(list)
    for i, each in enumerate(words):
        for word in each:
            places[word].append(i)
    where = {word: np.array(found) for word, found in places.items()}
    twins: dict[str, str] = {}
    for i, name in enumerate(names):
        common = np.bincount(np.concatenate([where[word] for word in words[i]]), minlength=len(names))
        share = common / (length + length[i] - common)
        share[i] = -1
        twins[name] = names[share.argmax()]
    return twins


@functools.cache
def _covered(font: str) -> frozenset[int]:
    """The code points that a font has."""
    with TTFont(_path(font), lazy=True) as file:
        return frozenset(file.getBestCmap())


@functools.cache
def _font(name: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_path(name), SIZE, layout_engine=ImageFont.Layout.BASIC)


def _path(font: str) -> pathlib.Path:
    return pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
