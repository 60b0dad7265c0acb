"""Character names and their glyphs, from the fonts that matplotlib ships. Split by name."""

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
FONTS = (  # dev and test show a character in the first font that has it
    *("DejaVuSans", "STIXGeneral", "DejaVuSerif", "DejaVuSansMono", "DejaVuSans-Bold"),
    *("DejaVuSerif-Bold", "DejaVuSans-Oblique", "STIXGeneralItalic"),
)
MAX_FONTS = 2  # per character in training
SIDE, FONT_SIZE, BASELINE = 32, 22, 24  # pixels
SENTENCES = ("{}", "{}", "{}", "the character {}", "unicode: {}", "what does {} look like?")


@functools.cache
def characters_by_name() -> dict[str, str]:
    """Map names to letters, digits, punctuation and symbols; of characters with equal glyphs, only the first."""
    by_name: dict[str, str] = {}
    known_glyphs: set[bytes] = set()
    for code in sorted(set().union(*(_code_points(font) for font in FONTS))):
        character = chr(code)
        name = unicodedata.name(character, "").lower()
        if name and unicodedata.category(character)[0] in "LNPS":
            glyph = _first_font_glyph(character)
            if glyph and glyph not in known_glyphs:
                known_glyphs.add(glyph)
                by_name[name] = character
    return by_name


def fonts_with(character: str) -> list[str]:
    """List the fonts that have the character; at least one has."""
    return [font for font in FONTS if ord(character) in _code_points(font)]


@functools.cache
def render_glyph(character: str, font: str) -> bytes:
    """Render a PNG of SIDE x SIDE gray pixels, on a common baseline; b"" where the glyph is blank or does not fit."""
    image = Pillow.new("L", (SIDE, SIDE), 255)
    left, top, right, bottom = _font(font).getbbox(character, anchor="ls")
    if right - left > SIDE or top + BASELINE < 0 or bottom + BASELINE > SIDE:
        return b""
    origin = ((SIDE - left - right) / 2, BASELINE)
    ImageDraw.Draw(image).text(origin, character, fill=0, font=_font(font), anchor="ls")
    if image.histogram()[:128] == [0] * 128:
        return b""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def glyph_records(split: str) -> Iterator[Record]:
    """Yield (name, glyph). In training, in several fonts; the hard negative is the glyph with the most similar name."""
    split_of = assign_splits(characters_by_name(), DEV, TEST)
    names = [name for name in split_of if split_of[name] == split]
    nearest = _nearest_names(names) if split == "train" else {}
    yielded: set[bytes] = set()
    for name in names:
        character, rng = characters_by_name()[name], random.Random(f"glyphs {name}")
        first_font, *others = fonts_with(character)
        extra_fonts = rng.sample(others, min(MAX_FONTS - 1, len(others))) if split == "train" else []
        for font in (first_font, *extra_fonts):
            glyph = _training_glyph(character, font)
            if glyph in yielded:
                continue
            yielded.add(glyph)
            negatives: tuple[Content, ...] = ()
            if split == "train":
                neighbor = characters_by_name()[nearest[name]]
                negative = _training_glyph(neighbor, font)
                negatives = ((Image(negative if negative != glyph else _first_font_glyph(neighbor)),),)
            query = (Text(rng.choice(SENTENCES).format(name)),)
            yield Record(f"glyphs/{name}/{font}", query, (Image(glyph),), negatives, "en")


def _first_font_glyph(character: str) -> bytes:
    """Render a character in the first font that has it: the glyph of dev and test, unique to the character."""
    return render_glyph(character, fonts_with(character)[0])


@functools.cache
def _first_font_glyphs() -> frozenset[bytes]:
    return frozenset(_first_font_glyph(character) for character in characters_by_name().values())


def _training_glyph(character: str, font: str) -> bytes:
    """Render a character in a font, or in its first font where that one lacks it or draws the glyph of a test item."""
    glyph = render_glyph(character, font) if ord(character) in _code_points(font) else b""
    return glyph if glyph and glyph not in _first_font_glyphs() else _first_font_glyph(character)


def _nearest_names(names: list[str]) -> dict[str, str]:
    """Map every name to the other name with the largest Jaccard similarity of their words."""
    words = [set(name.split()) for name in names]
    num_words = np.array([len(name_words) for name_words in words])
    postings: dict[str, list[int]] = collections.defaultdict(list)
    for i, name_words in enumerate(words):
        for word in name_words:
            postings[word].append(i)
    indices = {word: np.array(rows) for word, rows in postings.items()}
    nearest: dict[str, str] = {}
    for i, name in enumerate(names):
        common = np.bincount(np.concatenate([indices[word] for word in words[i]]), minlength=len(names))
        similarity = common / (num_words + num_words[i] - common)
        similarity[i] = -1
        nearest[name] = names[similarity.argmax()]
    return nearest


@functools.cache
def _code_points(font: str) -> frozenset[int]:
    """Return the code points that a font has."""
    with TTFont(_path(font), lazy=True) as file:
        return frozenset(file.getBestCmap())


@functools.cache
def _font(name: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_path(name), FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)


def _path(font: str) -> pathlib.Path:
    return pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
