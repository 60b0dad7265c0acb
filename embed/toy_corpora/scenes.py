"""Procedural scenes of single objects: images with captions, noisy captions, edits, and labels.

A full caption names every attribute, so it means one scene. Scenes are split, not their images: a held-out scene is in
no training set, neither as a positive, nor as a negative, nor as the start of an edit.
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
VARIANTS = 3  # renderings of a scene in training, each with its own caption
MISMATCHED, INCOMPLETE, GARBLED = 0.1, 0.1, 0.1  # shares of the noisy captions


@dataclasses.dataclass(frozen=True)
class Scene:
    """What an image shows."""

    shape: str
    color: str
    size: str
    position: str
    background: str

    @property
    def name(self) -> str:
        return "-".join(dataclasses.astuple(self)).replace(" ", "_")

    @property
    def label(self) -> str:
        return f"{self.color} {self.shape}"


ATTRIBUTES = {"shape": SHAPES, "color": COLORS, "size": SIZES, "position": POSITIONS, "background": BACKGROUNDS}


@functools.cache
def scenes_by_split() -> dict[str, tuple[Scene, ...]]:
    """Map every split to its scenes, in a fixed shuffled order."""
    by_name = {scene.name: scene for scene in itertools.starmap(Scene, itertools.product(*ATTRIBUTES.values()))}
    split_of = assign_splits(by_name, DEV, TEST)
    return {split: tuple(by_name[name] for name in split_of if split_of[name] == split) for split in SPLITS}


@functools.cache
def _training_scenes() -> frozenset[Scene]:
    return frozenset(scenes_by_split()["train"])


def neighbors(scene: Scene, attributes: tuple[str, ...] = tuple(ATTRIBUTES)) -> list[Scene]:
    """List the training scenes that differ in exactly one of the attributes."""
    others = [dataclasses.replace(scene, **{name: value}) for name in attributes for value in ATTRIBUTES[name]]
    return [other for other in others if other != scene and other in _training_scenes()]


@functools.cache
def render_scene(scene: Scene, variant: int) -> Image:
    """Render one of the variants of a scene."""
    row, column = divmod(POSITIONS.index(scene.position), 3)
    rng = random.Random(f"picture {scene.name} {variant}")
    return Image(render.draw_scene(scene.shape, scene.color, scene.size, column, row, scene.background, rng))


def make_caption(scene: Scene, language: Language, rng: random.Random) -> str:
    """Describe a scene in full."""
    return rng.choice(language.scenes).format(
        object=language.noun_phrase(scene.shape, scene.color, scene.size),
        position=language.words[scene.position],
        background=language.words[scene.background],
    )


def image_records(split: str) -> Iterator[Record]:
    """Yield (caption, image). In training, in three languages; the hard negative differs in one attribute."""
    for variant, i, scene in _variants(split):
        rng = random.Random(f"images {scene.name} {variant}")
        language = LANGUAGES[(i + variant) % len(LANGUAGES)]
        neighbor = render_scene(rng.choice(neighbors(scene)), variant)
        negatives: tuple[Content, ...] = ((neighbor,),) if split == "train" else ()
        query, target = (Text(make_caption(scene, language, rng)),), (render_scene(scene, variant),)
        yield Record(f"scenes_image/{scene.name}/{variant}", query, target, negatives, language.code)


def noisy_records(split: str) -> Iterator[Record]:
    """Yield (caption, image) with the web's noise: captions of other images, without attributes, or without words."""
    for variant, i, scene in _variants(split):
        rng = random.Random(f"noisy {scene.name} {variant}")
        language = LANGUAGES[(i + variant + 1) % len(LANGUAGES)]
        noise = rng.random()
        text = make_caption(scene, language, rng)
        if noise < MISMATCHED:
            text = make_caption(rng.choice(scenes_by_split()[split]), language, rng)
        elif noise < MISMATCHED + INCOMPLETE:
            context = rng.choice(("", language.words[scene.position], language.words[scene.background]))
            noun_phrase = language.noun_phrase(scene.shape, scene.color, rng.choice(("", scene.size)))
            text = f"{noun_phrase} {context}".strip()
        elif noise < MISMATCHED + INCOMPLETE + GARBLED:
            text = drop_words(text, rng)
        query, target = (Text(text),), (render_scene(scene, variant),)
        yield Record(f"scenes_noisy/{scene.name}/{variant}", query, target, (), language.code)


def edit_records(split: str) -> Iterator[Record]:
    """Yield ([image, "the same, but blue"], edited image). The hard negative is the image before the edit.

    The scene after the edit decides the split. The scene before it is a training scene in every split.
    """
    for variant, i, after in _variants(split):
        rng = random.Random(f"edits {after.name} {variant}")
        language = LANGUAGES[(i + variant + 2) % len(LANGUAGES)]
        before = rng.choice(neighbors(after, (rng.choice(tuple(ATTRIBUTES)),)) or neighbors(after))
        (new,) = (getattr(after, name) for name in ATTRIBUTES if getattr(after, name) != getattr(before, name))
        instruction = rng.choice(language.edits).format(language.edit_phrase(new))
        start, target = render_scene(before, variant), (render_scene(after, variant),)
        negatives: tuple[Content, ...] = ((start,),) if split == "train" else ()
        name = f"scenes_edit/{after.name}/from-{before.name}/{variant}"
        yield Record(name, (start, Text(instruction)), target, negatives, language.code)


def label_records(split: str) -> Iterator[Record]:
    """Yield (utterance, "red star" or another of 48 labels). All splits share the labels, and none an utterance."""
    for i, (text, (scene, language)) in enumerate(_utterances()[split].items()):
        rng = random.Random(f"labels {text}")
        negatives: tuple[Content, ...] = ()
        if split == "train":
            name = rng.choice(("shape", "color"))
            wrong_value = rng.choice([value for value in ATTRIBUTES[name] if value != getattr(scene, name)])
            negatives = ((Text(dataclasses.replace(scene, **{name: wrong_value}).label),),)
        target = (Text(scene.label),)
        yield Record(f"scenes_labels/{split}/{i}", (Text(text),), target, negatives, language.code, scene.label)


def _variants(split: str) -> Iterator[tuple[int, int, Scene]]:
    """Yield (variant, i, scene): every scene once per variant in training, once in dev and test."""
    for variant in range(VARIANTS if split == "train" else 1):
        for i, scene in enumerate(scenes_by_split()[split]):
            yield variant, i, scene


@functools.cache
def _utterances() -> dict[str, dict[str, tuple[Scene, Language]]]:
    """Map split -> utterance -> (scene, language).

    Utterances leave attributes out, so two scenes can share one: the held-out split keeps it.
    """
    by_split: dict[str, dict[str, tuple[Scene, Language]]] = {}
    for split in reversed(SPLITS):
        by_split[split] = {}
        for repetition, (i, scene) in itertools.product(range(2), enumerate(scenes_by_split()[split])):
            rng = random.Random(f"utterance {scene.name} {repetition}")
            language = LANGUAGES[(i + 2 * repetition) % len(LANGUAGES)]
            noun_phrase = language.noun_phrase(scene.shape, scene.color, rng.choice(("", scene.size)))
            text = rng.choice(language.utterances).format(object=noun_phrase, position=language.words[scene.position])
            if not any(text in utterances for utterances in by_split.values()):
                by_split[split][text] = scene, language
    return by_split
