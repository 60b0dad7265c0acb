"""Captions in four languages and short clips of one moving object. Split by what the clip shows."""

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
VARIANTS = 2  # renderings of a clip in training
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
    """What a video shows."""

    shape: str
    color: str
    size: str
    motion: str

    @property
    def name(self) -> str:
        return "-".join(dataclasses.astuple(self))


@functools.cache
def clips_by_split() -> dict[str, tuple[Clip, ...]]:
    """Map every split to its clips, in a fixed shuffled order."""
    choices = itertools.product(SHAPES, COLORS, SIZES, MOTIONS)
    by_name = {clip.name: clip for clip in itertools.starmap(Clip, choices)}
    split_of = assign_splits(by_name, DEV, TEST)
    return {split: tuple(by_name[name] for name in split_of if split_of[name] == split) for split in SPLITS}


@functools.cache
def render_clip(clip: Clip, variant: int) -> Video:
    """Render one of the variants of a clip."""
    rng = random.Random(f"clip {clip.name} {variant}")
    return Video(render.draw_clip(clip.shape, clip.color, clip.size, clip.motion, rng))


def make_caption(clip: Clip, language: Language, rng: random.Random) -> str:
    """Describe a clip in full."""
    i = LANGUAGES.index(language)
    noun_phrase = language.noun_phrase(clip.shape, clip.color, clip.size)
    return rng.choice(SENTENCES[i]).format(noun_phrase, MOTIONS[clip.motion][i])


def video_records(split: str) -> Iterator[Record]:
    """Yield (caption, video). In training, in all languages; the hard negative is the same object in another motion."""
    training = frozenset(clips_by_split()["train"])
    for repetition in range(len(LANGUAGES) if split == "train" else 1):
        for i, clip in enumerate(clips_by_split()[split]):
            rng = random.Random(f"videos {clip.name} {repetition}")
            language, variant = LANGUAGES[(i + repetition) % len(LANGUAGES)], repetition % VARIANTS
            neighbors = [dataclasses.replace(clip, motion=motion) for motion in MOTIONS if motion != clip.motion]
            neighbors = [other for other in neighbors if other in training]
            negatives: tuple[Content, ...] = ()
            if split == "train" and neighbors:
                negatives = ((render_clip(rng.choice(neighbors), variant),),)
            query = (Text(make_caption(clip, language, rng)),)
            target = (render_clip(clip, variant),)
            yield Record(f"scenes_video/{clip.name}/{repetition}", query, target, negatives, language.code)
