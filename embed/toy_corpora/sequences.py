"""Two pictures of `scenes_by_split` with a word between them, in an order that matters: "a red star, then a blue ring".

Every sequence is there in both orders, so that whoever knows what is shown, and not in which order, is right by half.
"""

import random
from collections.abc import Iterator

from embed.data.modalities import Content, Text
from embed.data.records import Record
from embed.toy_corpora.captions import LANGUAGES
from embed.toy_corpora.scenes import Scene, render_scene, scenes_by_split


def sequence_records(split: str) -> Iterator[Record]:
    """Text -> [picture, word, picture]; the other order is the hard negative. No scene is on two sides, none in two
    sequences of a side."""
    one = sorted(scenes_by_split()[split], key=lambda scene: random.Random(f"sequence {scene.name}").random())
    for i, (a, b) in enumerate(zip(one[::2], one[1::2], strict=False)):
        if a.label == b.label and a.size == b.size:
            continue  # both things are called the same
        language = LANGUAGES[i % len(LANGUAGES)]

        def said(first: Scene, second: Scene, language=language) -> Content:
            first_name, second_name = (language.thing(x.shape, x.colour, x.size) for x in (first, second))
            return (Text(f"{first_name}, {language.then} {second_name}"),)

        def shown(first: Scene, second: Scene, language=language) -> Content:
            return render_scene(first, 0), Text(language.then), render_scene(second, 0)

        for x, y in ((a, b), (b, a)):
            name = f"sequences/{x.name}/{y.name}"
            yield Record(name, said(x, y), shown(x, y), (shown(y, x),), language.code)
