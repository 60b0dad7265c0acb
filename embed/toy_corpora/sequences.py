"""Two images of `scenes` with a word between them, in an order that matters: "a red star, then a blue ring".

Every sequence exists in both orders: a model that ignores the order is right half of the time.
"""

import random
from collections.abc import Iterator

from embed.data.modalities import Content, Text
from embed.data.records import Record
from embed.toy_corpora.captions import LANGUAGES, Language
from embed.toy_corpora.scenes import Scene, render_scene, scenes_by_split


def sequence_records(split: str) -> Iterator[Record]:
    """Yield (text, [image, word, image]); the hard negative has the other order. A scene is in one sequence only."""
    scenes = sorted(scenes_by_split()[split], key=lambda scene: random.Random(f"sequence {scene.name}").random())
    for i, (a, b) in enumerate(zip(scenes[::2], scenes[1::2], strict=False)):
        if a.label == b.label and a.size == b.size:
            continue  # both have the same noun phrase
        language = LANGUAGES[i % len(LANGUAGES)]
        for first, second in ((a, b), (b, a)):
            query = _describe(first, second, language)
            target = _show(first, second, language)
            negative = _show(second, first, language)
            yield Record(f"sequences/{first.name}/{second.name}", query, target, (negative,), language.code)


def _describe(first: Scene, second: Scene, language: Language) -> Content:
    first_phrase = language.noun_phrase(first.shape, first.color, first.size)
    second_phrase = language.noun_phrase(second.shape, second.color, second.size)
    return (Text(f"{first_phrase}, {language.then} {second_phrase}"),)


def _show(first: Scene, second: Scene, language: Language) -> Content:
    return render_scene(first, 0), Text(language.then), render_scene(second, 0)
