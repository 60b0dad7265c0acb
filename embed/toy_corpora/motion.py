"""Captions -> short clips of one object in motion, in four languages. Split by what the clip shows."""

import dataclasses
import functools
import itertools
import random
from collections.abc import Iterator

from embed.data.modalities import Content, Text, Video
from embed.data.records import Record
from embed.toy_corpora import render
from embed.toy_corpora.captions import COLORS, LANGUAGES, SHAPES, SIZES, Language
from embed.toy_corpora.splits import SPLITS, assign_splits

DEV, TEST = 68, 220  # clips
VARIANTS = 2  # renderings of a clip
MOTIONS = {
    "right": (
        "moves from left to right",
        "bewegt sich von links nach rechts",
        "se mueve de izquierda a derecha",
        "se déplace de gauche à droite",
    ),
    "left": (
        "moves from right to left",
        "bewegt sich von rechts nach links",
        "se mueve de derecha a izquierda",
        "se déplace de droite à gauche",
    ),
    "up": ("rises", "steigt nach oben", "sube", "monte"),
    "down": ("falls", "fällt nach unten", "baja", "descend"),
    "falling": (
        "slides from the top left to the bottom right",
        "gleitet von oben links nach unten rechts",
        "se desliza de arriba a la izquierda a abajo a la derecha",
        "glisse d'en haut à gauche vers le bas à droite",
    ),
    "rising": (
        "climbs from the bottom left to the top right",
        "klettert von unten links nach oben rechts",
        "trepa de abajo a la izquierda a arriba a la derecha",
        "grimpe d'en bas à gauche vers le haut à droite",
    ),
    "grows": ("grows", "wächst", "crece", "grandit"),
    "shrinks": ("shrinks", "schrumpft", "se encoge", "rétrécit"),
}
SENTENCES = (
    ("{} {}", "a clip in which {} {}", "look how {} {}"),
    ("{} {}", "ein Clip: {} {}", "im Video zu sehen: {} {}"),
    ("{} {}", "un vídeo en el que {} {}", "mira cómo {} {}"),
    ("{} {}", "une vidéo dans laquelle {} {}", "regarde : {} {}"),
)


@dataclasses.dataclass(frozen=True)
class Clip:
    """What a clip shows."""

    shape: str
    colour: str
    size: str
    motion: str

    @property
    def name(self) -> str:
        return "-".join(dataclasses.astuple(self))


@functools.cache
def clips_by_split() -> dict[str, tuple[Clip, ...]]:
    """split -> what its clips show, in a shuffled order that never changes."""
    found = {each.name: each for each in itertools.starmap(Clip, itertools.product(SHAPES, COLORS, SIZES, MOTIONS))}
    side = assign_splits(found, DEV, TEST)
    return {split: tuple(found[name] for name in side if side[name] == split) for split in SPLITS}


@functools.cache
def render_clip(shown: Clip, variant: int) -> Video:
    """One of the renderings."""
    rng = random.Random(f"clip {shown.name} {variant}")
    return Video(render.draw_clip(shown.shape, shown.colour, shown.size, shown.motion, rng))


def make_caption(shown: Clip, language: Language, rng: random.Random) -> str:
    """A full description."""
    i = LANGUAGES.index(language)
    thing = language.thing(shown.shape, shown.colour, shown.size)
    return rng.choice(SENTENCES[i]).format(thing, MOTIONS[shown.motion][i])


def video_records(split: str) -> Iterator[Record]:
    """Caption -> clip. In training each comes in all languages, against the same object in another motion."""
    seen = frozenset(clips_by_split()["train"])
    for turn in range(len(LANGUAGES) if split == "train" else 1):
        for i, shown in enumerate(clips_by_split()[split]):
            rng = random.Random(f"videos {shown.name} {turn}")
            language, variant = LANGUAGES[(i + turn) % len(LANGUAGES)], turn % VARIANTS
            near = [dataclasses.replace(shown, motion=motion) for motion in MOTIONS if motion != shown.motion]
            near = [other for other in near if other in seen]
            negatives: tuple[Content, ...] = ()
            if split == "train" and near:
                negatives = ((render_clip(rng.choice(near), variant),),)
            query, target = (Text(make_caption(shown, language, rng)),), (render_clip(shown, variant),)
            yield Record(f"scenes_video/{shown.name}/{turn}", query, target, negatives, language.code)
