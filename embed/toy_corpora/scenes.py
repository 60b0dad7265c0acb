"""A procedural world of single objects: pictures with captions, noisy captions, edits, and labels.

Every attribute is in a full caption, so a caption means one scene. Scenes are split, not their pictures: a scene that
is tested is in no training set, neither as a positive, nor as a negative, nor as the start of an edit.
"""

import dataclasses
import functools
import itertools
import random
from collections.abc import Iterator

from embed.data.modalities import Content, Image, Text
from embed.data.records import Record
from embed.toy_corpora import render
from embed.toy_corpora.captions import (
    BACKGROUNDS,
    COLOURS,
    LANGUAGES,
    POSITIONS,
    SHAPES,
    SIZES,
    Language,
    without_words,
)
from embed.toy_corpora.splits import SPLITS, by_rank

DEV, TEST = 100, 256  # scenes
VARIANTS = 3  # renderings of a scene, and captions of each in training
MISMATCHED, INCOMPLETE, GARBLED = 0.1, 0.1, 0.1  # shares of the noisy captions


@dataclasses.dataclass(frozen=True)
class Scene:
    """What a picture shows."""

    shape: str
    colour: str
    size: str
    position: str
    background: str

    @property
    def name(self) -> str:
        return "-".join(dataclasses.astuple(self)).replace(" ", "_")

    @property
    def label(self) -> str:
        return f"{self.colour} {self.shape}"


CHOICES = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "position": POSITIONS, "background": BACKGROUNDS}


@functools.cache
def scenes() -> dict[str, tuple[Scene, ...]]:
    """split -> its scenes, in a shuffled order that never changes."""
    found = {scene.name: scene for scene in itertools.starmap(Scene, itertools.product(*CHOICES.values()))}
    side = by_rank(found, DEV, TEST)
    return {split: tuple(found[name] for name in side if side[name] == split) for split in SPLITS}


@functools.cache
def _all_scenes() -> frozenset[Scene]:
    return frozenset(scenes()["train"])


def neighbours(scene: Scene, attributes: tuple[str, ...] = tuple(CHOICES)) -> list[Scene]:
    """The training scenes that differ in exactly one of the attributes."""
    others = [dataclasses.replace(scene, **{name: value}) for name in attributes for value in CHOICES[name]]
    return [other for other in others if other != scene and other in _all_scenes()]


@functools.cache
def picture(scene: Scene, variant: int) -> Image:
    """One of the renderings of a scene."""
    place = divmod(POSITIONS.index(scene.position), 3)
    rng = random.Random(f"picture {scene.name} {variant}")
    return Image(render.still(scene.shape, scene.colour, scene.size, place[1], place[0], scene.background, rng))


def caption(scene: Scene, language: Language, rng: random.Random) -> str:
    """A full description."""
    return rng.choice(language.scenes).format(
        thing=language.thing(scene.shape, scene.colour, scene.size),
        position=language.words[scene.position],
        background=language.words[scene.background],
    )


def images(split: str) -> Iterator[Record]:
    """Caption -> picture. In training every scene comes in three languages, each against a scene that is nearly it."""
    for variant, i, scene in _rounds(split):
        rng = random.Random(f"images {scene.name} {variant}")
        language = LANGUAGES[(i + variant) % len(LANGUAGES)]
        near = picture(rng.choice(neighbours(scene)), variant)
        negatives: tuple[Content, ...] = ((near,),) if split == "train" else ()
        query, target = (Text(caption(scene, language, rng)),), (picture(scene, variant),)
        yield Record(f"scenes_image/{scene.name}/{variant}", query, target, negatives, language.code)


def noisy(split: str) -> Iterator[Record]:
    """Caption -> picture as the web has them: captions of other pictures, with attributes missing, with words lost."""
    for variant, i, scene in _rounds(split):
        rng = random.Random(f"noisy {scene.name} {variant}")
        language, fate = LANGUAGES[(i + variant + 1) % len(LANGUAGES)], rng.random()
        text = caption(scene, language, rng)
        if fate < MISMATCHED:
            text = caption(rng.choice(scenes()[split]), language, rng)
        elif fate < MISMATCHED + INCOMPLETE:
            where = rng.choice(("", language.words[scene.position], language.words[scene.background]))
            text = f"{language.thing(scene.shape, scene.colour, rng.choice(('', scene.size)))} {where}".strip()
        elif fate < MISMATCHED + INCOMPLETE + GARBLED:
            text = without_words(text, rng)
        query, target = (Text(text),), (picture(scene, variant),)
        yield Record(f"scenes_noisy/{scene.name}/{variant}", query, target, (), language.code)


def edits(split: str) -> Iterator[Record]:
    """[picture, "the same, but blue"] -> the picture after that; the unchanged one is the hard negative.

    The scene after the edit decides the split. The one before it is a training scene on every side.
    """
    for variant, i, after in _rounds(split):
        rng = random.Random(f"edits {after.name} {variant}")
        language = LANGUAGES[(i + variant + 2) % len(LANGUAGES)]
        before = rng.choice(neighbours(after, (rng.choice(tuple(CHOICES)),)) or neighbours(after))
        (new,) = (getattr(after, name) for name in CHOICES if getattr(after, name) != getattr(before, name))
        wish = rng.choice(language.edits).format(language.alone(new))
        start, target = picture(before, variant), (picture(after, variant),)
        negatives: tuple[Content, ...] = ((start,),) if split == "train" else ()
        name = f"scenes_edit/{after.name}/from-{before.name}/{variant}"
        yield Record(name, (start, Text(wish)), target, negatives, language.code)


def labels(split: str) -> Iterator[Record]:
    """Utterance -> "red star" or another of 48 labels. Labels are on every side on purpose, utterances on one."""
    for i, (text, (scene, language)) in enumerate(_utterances()[split].items()):
        rng = random.Random(f"labels {text}")
        negatives: tuple[Content, ...] = ()
        if split == "train":
            name = rng.choice(("shape", "colour"))
            other = rng.choice([value for value in CHOICES[name] if value != getattr(scene, name)])
            negatives = ((Text(dataclasses.replace(scene, **{name: other}).label),),)
        target = (Text(scene.label),)
        yield Record(f"scenes_labels/{split}/{i}", (Text(text),), target, negatives, language.code, scene.label)


def _rounds(split: str) -> Iterator[tuple[int, int, Scene]]:
    """(variant, i, scene): every scene once a variant in training, once at all elsewhere."""
    for variant in range(VARIANTS if split == "train" else 1):
        for i, scene in enumerate(scenes()[split]):
            yield variant, i, scene


@functools.cache
def _utterances() -> dict[str, dict[str, tuple[Scene, Language]]]:
    """split -> utterance -> what it is about. They are loose, so two scenes can share one: the tested side keeps it."""
    found: dict[str, dict[str, tuple[Scene, Language]]] = {}
    for split in reversed(SPLITS):
        found[split] = {}
        for turn, (i, scene) in itertools.product(range(2), enumerate(scenes()[split])):
            rng = random.Random(f"utterance {scene.name} {turn}")
            language = LANGUAGES[(i + 2 * turn) % len(LANGUAGES)]
            thing = language.thing(scene.shape, scene.colour, rng.choice(("", scene.size)))
            text = rng.choice(language.utterances).format(thing=thing, position=language.words[scene.position])
            if not any(text in known for known in found.values()):
                found[split][text] = scene, language
    return found
