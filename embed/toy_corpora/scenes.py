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
    COLORS,
    LANGUAGES,
    POSITIONS,
    SHAPES,
    SIZES,
    Language,
    drop_words,
)
from embed.toy_corpora.splits import SPLITS, assign_splits

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


ATTRIBUTES = {"shape": SHAPES, "colour": COLORS, "size": SIZES, "position": POSITIONS, "background": BACKGROUNDS}


@functools.cache
def scenes_by_split() -> dict[str, tuple[Scene, ...]]:
    """split -> its scenes, in a shuffled order that never changes."""
    found = {scene.name: scene for scene in itertools.starmap(Scene, itertools.product(*ATTRIBUTES.values()))}
    side = assign_splits(found, DEV, TEST)
    return {split: tuple(found[name] for name in side if side[name] == split) for split in SPLITS}


@functools.cache
def _training_scenes() -> frozenset[Scene]:
    return frozenset(scenes_by_split()["train"])


def neighbors(scene: Scene, attributes: tuple[str, ...] = tuple(ATTRIBUTES)) -> list[Scene]:
    """The training scenes that differ in exactly one of the attributes."""
    others = [dataclasses.replace(scene, **{name: value}) for name in attributes for value in ATTRIBUTES[name]]
    return [other for other in others if other != scene and other in _training_scenes()]


@functools.cache
def render_scene(scene: Scene, variant: int) -> Image:
    """One of the renderings of a scene."""
    place = divmod(POSITIONS.index(scene.position), 3)
    rng = random.Random(f"picture {scene.name} {variant}")
    return Image(render.draw_scene(scene.shape, scene.colour, scene.size, place[1], place[0], scene.background, rng))


def make_caption(scene: Scene, language: Language, rng: random.Random) -> str:
    """A full description."""
    return rng.choice(language.scenes).format(
        thing=language.thing(scene.shape, scene.colour, scene.size),
        position=language.words[scene.position],
        background=language.words[scene.background],
    )


def image_records(split: str) -> Iterator[Record]:
    """Caption -> picture. In training every scene comes in three languages, each against a scene that is nearly it."""
    for variant, i, scene in _variants(split):
        rng = random.Random(f"images {scene.name} {variant}")
        language = LANGUAGES[(i + variant) % len(LANGUAGES)]
        near = render_scene(rng.choice(neighbors(scene)), variant)
        negatives: tuple[Content, ...] = ((near,),) if split == "train" else ()
        query, target = (Text(make_caption(scene, language, rng)),), (render_scene(scene, variant),)
        yield Record(f"scenes_image/{scene.name}/{variant}", query, target, negatives, language.code)


def noisy_records(split: str) -> Iterator[Record]:
    """Caption -> picture as the web has them: captions of other pictures, with attributes missing, with words lost."""
    for variant, i, scene in _variants(split):
        rng = random.Random(f"noisy {scene.name} {variant}")
        language, fate = LANGUAGES[(i + variant + 1) % len(LANGUAGES)], rng.random()
        text = make_caption(scene, language, rng)
        if fate < MISMATCHED:
            text = make_caption(rng.choice(scenes_by_split()[split]), language, rng)
        elif fate < MISMATCHED + INCOMPLETE:
            where = rng.choice(("", language.words[scene.position], language.words[scene.background]))
            text = f"{language.thing(scene.shape, scene.colour, rng.choice(('', scene.size)))} {where}".strip()
        elif fate < MISMATCHED + INCOMPLETE + GARBLED:
            text = drop_words(text, rng)
        query, target = (Text(text),), (render_scene(scene, variant),)
        yield Record(f"scenes_noisy/{scene.name}/{variant}", query, target, (), language.code)


def edit_records(split: str) -> Iterator[Record]:
    """[picture, "the same, but blue"] -> the picture after that; the unchanged one is the hard negative.

    The scene after the edit decides the split. The one before it is a training scene on every side.
    """
    for variant, i, after in _variants(split):
        rng = random.Random(f"edits {after.name} {variant}")
        language = LANGUAGES[(i + variant + 2) % len(LANGUAGES)]
        before = rng.choice(neighbors(after, (rng.choice(tuple(ATTRIBUTES)),)) or neighbors(after))
        (new,) = (getattr(after, name) for name in ATTRIBUTES if getattr(after, name) != getattr(before, name))
        wish = rng.choice(language.edits).format(language.alone(new))
        start, target = render_scene(before, variant), (render_scene(after, variant),)
        negatives: tuple[Content, ...] = ((start,),) if split == "train" else ()
        name = f"scenes_edit/{after.name}/from-{before.name}/{variant}"
        yield Record(name, (start, Text(wish)), target, negatives, language.code)


def label_records(split: str) -> Iterator[Record]:
    """Utterance -> "red star" or another of 48 labels. Labels are on every side on purpose, utterances on one."""
    for i, (text, (scene, language)) in enumerate(_utterances()[split].items()):
        rng = random.Random(f"labels {text}")
        negatives: tuple[Content, ...] = ()
        if split == "train":
            name = rng.choice(("shape", "colour"))
            other = rng.choice([value for value in ATTRIBUTES[name] if value != getattr(scene, name)])
            negatives = ((Text(dataclasses.replace(scene, **{name: other}).label),),)
        target = (Text(scene.label),)
        yield Record(f"scenes_labels/{split}/{i}", (Text(text),), target, negatives, language.code, scene.label)


def _variants(split: str) -> Iterator[tuple[int, int, Scene]]:
    """(variant, i, scene): every scene once a variant in training, once at all elsewhere."""
    for variant in range(VARIANTS if split == "train" else 1):
        for i, scene in enumerate(scenes_by_split()[split]):
            yield variant, i, scene


@functools.cache
def _utterances() -> dict[str, dict[str, tuple[Scene, Language]]]:
    """split -> utterance -> what it is about. They are loose, so two scenes can share one: the tested side keeps it."""
    found: dict[str, dict[str, tuple[Scene, Language]]] = {}
    for split in reversed(SPLITS):
        found[split] = {}
        for turn, (i, scene) in itertools.product(range(2), enumerate(scenes_by_split()[split])):
            rng = random.Random(f"utterance {scene.name} {turn}")
            language = LANGUAGES[(i + 2 * turn) % len(LANGUAGES)]
            thing = language.thing(scene.shape, scene.colour, rng.choice(("", scene.size)))
            text = rng.choice(language.utterances).format(thing=thing, position=language.words[scene.position])
            if not any(text in known for known in found.values()):
                found[split][text] = scene, language
    return found
