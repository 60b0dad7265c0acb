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
from embed.toy_corpora.splits import assign_splits

DEV, TEST = 100, 300  # names
FONTS = (  # a character is tested in the first of them that has it
    *("DejaVuSans", "STIXGeneral", "DejaVuSerif", "DejaVuSansMono", "DejaVuSans-Bold"),
    *("DejaVuSerif-Bold", "DejaVuSans-Oblique", "STIXGeneralItalic"),
)
MAX_FONTS = 2  # fonts of a character in training at most
SIDE, FONT_SIZE, BASELINE = 32, 22, 24  # pixels
SENTENCES = ("{}", "{}", "{}", "the character {}", "unicode: {}", "what does {} look like?")


@functools.cache
def characters_by_name() -> dict[str, str]:
    """Name -> letter, digit, sign or symbol; of several that look the same in their first font, the first only."""
    found: dict[str, str] = {}
    looks: set[bytes] = set()
    for code in sorted(set().union(*(_code_points(font) for font in FONTS))):
        character = chr(code)
        name = unicodedata.name(character, "").lower()
        if name and unicodedata.category(character)[0] in "LNPS":
            look = _first_font_glyph(character)
            if look and look not in looks:
                looks.add(look)
                found[name] = character
    return found


def fonts_with(character: str) -> list[str]:
    """The fonts that have the character; there is one at least."""
    return [font for font in FONTS if ord(character) in _code_points(font)]


@functools.cache
def render_glyph(character: str, font: str) -> bytes:
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


def glyph_records(split: str) -> Iterator[Record]:
    """Name -> glyph. In training in several fonts, against the glyph whose name shares the most words with it."""
    side = assign_splits(characters_by_name(), DEV, TEST)
    names = [name for name in side if side[name] == split]
    twins = _nearest_names(names) if split == "train" else {}
    seen: set[bytes] = set()
    for name in names:
        character, rng = characters_by_name()[name], random.Random(f"glyphs {name}")
        first, *others = fonts_with(character)
        more = rng.sample(others, min(MAX_FONTS - 1, len(others))) if split == "train" else []
        for font in (first, *more):
            look = _training_glyph(character, font)
            if look in seen:
                continue
            seen.add(look)
            negatives: tuple[Content, ...] = ()
            if split == "train":
                twin = characters_by_name()[twins[name]]
                other = _training_glyph(twin, font)
                negatives = ((Image(other if other != look else _first_font_glyph(twin)),),)
            query = (Text(rng.choice(SENTENCES).format(name)),)
            yield Record(f"glyphs/{name}/{font}", query, (Image(look),), negatives, "en")


def _first_font_glyph(character: str) -> bytes:
    """The glyph in the first font that has it: the one that is tested, unlike that of any other character."""
    return render_glyph(character, fonts_with(character)[0])


@functools.cache
def _first_font_glyphs() -> frozenset[bytes]:
    return frozenset(_first_font_glyph(character) for character in characters_by_name().values())


def _training_glyph(character: str, font: str) -> bytes:
    """The glyph in a font; in its first where that one lacks it, or shows what may be the test of another character."""
    look = render_glyph(character, font) if ord(character) in _code_points(font) else b""
    return look if look and look not in _first_font_glyphs() else _first_font_glyph(character)


def _nearest_names(names: list[str]) -> dict[str, str]:
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
def _code_points(font: str) -> frozenset[int]:
    """The code points that a font has."""
    with TTFont(_path(font), lazy=True) as file:
        return frozenset(file.getBestCmap())


@functools.cache
def _font(name: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_path(name), FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)


def _path(font: str) -> pathlib.Path:
    return pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
