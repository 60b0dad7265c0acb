"""A procedural world: coloured shapes seen, moving, heard, edited and asked for, described in four languages.

Every attribute is named in a full caption, so a caption means one combination. Combinations, not pictures, are split: what
is tested was never trained on, in any of the datasets.
"""

import dataclasses
import hashlib
import itertools
import random
from collections.abc import Iterator

from embed.data.corpora import render
from embed.data.records import Audio, Content, Image, Record, Text, Video

LANGUAGES = ("en", "de", "es", "fr")
# Per value: its name in each language, phrased so that no agreement in gender or case is needed.
SHAPES = {
    "circle": ("circle", "Kreis", "círculo", "cercle"),
    "square": ("square", "Quadrat", "cuadrado", "carré"),
    "triangle": ("triangle", "Dreieck", "triángulo", "triangle"),
    "star": ("star", "Stern", "estrella", "étoile"),
    "cross": ("cross", "Kreuz", "cruz", "croix"),
    "ring": ("ring", "Ring", "anillo", "anneau"),
}
COLOURS = {
    "red": ("red", "rot", "rojo", "rouge"),
    "orange": ("orange", "orange", "naranja", "orange"),
    "yellow": ("yellow", "gelb", "amarillo", "jaune"),
    "green": ("green", "grün", "verde", "vert"),
    "cyan": ("cyan", "türkis", "turquesa", "turquoise"),
    "blue": ("blue", "blau", "azul", "bleu"),
    "purple": ("purple", "lila", "morado", "violet"),
    "black": ("black", "schwarz", "negro", "noir"),
}
SIZES = {"small": ("small", "klein", "pequeño", "petit"), "large": ("large", "groß", "grande", "grand")}
PLACES = {
    (0, 0): ("at the top left", "oben links", "arriba a la izquierda", "en haut à gauche"),
    (1, 0): ("at the top", "oben in der Mitte", "arriba en el centro", "en haut au centre"),
    (2, 0): ("at the top right", "oben rechts", "arriba a la derecha", "en haut à droite"),
    (0, 1): ("on the left", "links", "a la izquierda", "à gauche"),
    (1, 1): ("in the middle", "in der Mitte", "en el centro", "au milieu"),
    (2, 1): ("on the right", "rechts", "a la derecha", "à droite"),
    (0, 2): ("at the bottom left", "unten links", "abajo a la izquierda", "en bas à gauche"),
    (1, 2): ("at the bottom", "unten in der Mitte", "abajo en el centro", "en bas au centre"),
    (2, 2): ("at the bottom right", "unten rechts", "abajo a la derecha", "en bas à droite"),
}
GROUNDS = {
    "plain": ("plain", "einfarbig", "liso", "uni"),
    "striped": ("striped", "gestreift", "rayado", "rayé"),
    "dotted": ("dotted", "gepunktet", "punteado", "pointillé"),
}
MOTIONS = {
    "right": ("moves to the right", "bewegt sich nach rechts", "se mueve a la derecha", "va vers la droite"),
    "left": ("moves to the left", "bewegt sich nach links", "se mueve a la izquierda", "va vers la gauche"),
    "up": ("rises", "steigt auf", "sube", "monte"),
    "down": ("falls", "fällt herab", "baja", "descend"),
    "rising": ("climbs to the upper right", "klettert nach rechts oben", "trepa a la derecha", "grimpe à droite"),
    "falling": ("slides to the lower right", "rutscht nach rechts unten", "resbala a la derecha", "glisse à droite"),
    "grows": ("grows", "wächst", "crece", "grandit"),
    "shrinks": ("shrinks", "schrumpft", "se encoge", "rétrécit"),
}
PITCHES = {
    200: ("very low", "sehr tief", "muy grave", "très grave"),
    350: ("low", "tief", "grave", "grave"),
    600: ("middle", "mittel", "media", "moyen"),
    1000: ("high", "hoch", "aguda", "aigu"),
    1600: ("very high", "sehr hoch", "muy aguda", "très aigu"),
}
TIMBRES = {
    "sine": ("flute", "Flöte", "flauta", "flûte"),
    "square": ("clarinet", "Klarinette", "clarinete", "clarinette"),
    "saw": ("violin", "Geige", "violín", "violon"),
    "organ": ("organ", "Orgel", "órgano", "orgue"),
}
TEMPI = {"fast": ("fast", "schnell", "rápido", "vite"), "slow": ("slowly", "langsam", "lento", "lentement")}

IMAGE_CAPTIONS = (
    (
        "a {size} {colour} {shape} {place} on a {ground} background",
        "{place}, a {shape}: {size}, {colour}, {ground} ground",
    ),
    (
        "ein {shape}, {colour} und {size}, {place}, Hintergrund {ground}",
        "{place} ein {shape}: {size}, {colour}, {ground}",
    ),
    (
        "{shape} de color {colour}, tamaño {size}, {place}, fondo {ground}",
        "{place}: {shape}, {colour}, {size}, {ground}",
    ),
    (
        "{shape} de couleur {colour}, format {size}, {place}, fond {ground}",
        "{place} : {shape}, {colour}, {size}, {ground}",
    ),
)
VIDEO_CAPTIONS = (
    ("a {size} {colour} {shape} {motion}",),
    ("ein {shape}, {colour} und {size}, {motion}",),
    ("{shape} de color {colour}, tamaño {size}, {motion}",),
    ("{shape} de couleur {colour}, format {size}, {motion}",),
)
AUDIO_CAPTIONS = (
    ("the {timbre} plays {tempo}: {a}, {b}, {c}", "three notes on the {timbre}, {tempo}: {a}, then {b}, then {c}"),
    ("{timbre}, {tempo} gespielt: {a}, {b}, {c}",),
    ("{timbre}, {tempo}: nota {a}, nota {b}, nota {c}",),
    ("{timbre}, joué {tempo} : {a}, {b}, {c}",),
)
EDITS = ("the same, but {change}", "dasselbe, aber {change}", "lo mismo, pero {change}", "le même, mais {change}")
WISHES = (
    ("can you see a {colour} {shape} anywhere?", "show me the {size} {colour} {shape}", "is that {shape} {colour}?"),
    ("wo ist der {shape} in {colour}?", "zeig mir: {shape}, {size}, {colour}"),
    ("¿dónde hay {shape} de color {colour}?", "dibuja {shape}, {size}, {colour}"),
    ("où est {shape} de couleur {colour} ?", "montre {shape}, {size}, {colour}"),
)


@dataclasses.dataclass(frozen=True)
class Scene:
    """What a picture shows."""

    shape: str
    colour: str
    size: str
    place: tuple[int, int]
    ground: str


@dataclasses.dataclass(frozen=True)
class Clip:
    """What a video shows."""

    shape: str
    colour: str
    size: str
    motion: str


@dataclasses.dataclass(frozen=True)
class Melody:
    """What a sound plays: three pitches in Hz."""

    timbre: str
    tempo: str
    a: int
    b: int
    c: int


Combination = Scene | Clip | Melody
VALUES = {
    **{"shape": SHAPES, "colour": COLOURS, "size": SIZES, "place": PLACES, "ground": GROUNDS, "motion": MOTIONS},
    **{"timbre": TIMBRES, "tempo": TEMPI, "a": PITCHES, "b": PITCHES, "c": PITCHES},
}


def split_of(combination: Combination) -> str:
    """The side a combination is on, by a hash of its attributes."""
    bucket = int(hashlib.md5(repr(combination).encode()).hexdigest(), 16) % 100
    # Melodies and clips are fewer, so a larger share is held out to leave 200 candidates.
    held = 16 if isinstance(combination, Scene) else 30
    return "test" if bucket < held else "dev" if bucket < held + 7 else "train"


def combinations(kind: type, split: str) -> list[Combination]:
    """Every combination of one kind on one side, in a fixed shuffled order; at most 256 in a test, 96 in a dev split."""
    fields = [field.name for field in dataclasses.fields(kind)]
    found = [kind(*values) for values in itertools.product(*(VALUES[name] for name in fields))]
    found = [combination for combination in found if split_of(combination) == split]
    random.Random(f"{kind.__name__} {split}").shuffle(found)
    return found[: {"test": 256, "dev": 96}.get(split)]


def words(combination: Combination, language: int) -> dict[str, str]:
    """The name of every attribute value in one language."""
    return {name: VALUES[name][value][language] for name, value in vars(combination).items()}


def caption(combination: Combination, templates: tuple, rng: random.Random) -> tuple[str, str]:
    """(a full description in some language, the language)."""
    language = rng.randrange(len(LANGUAGES))
    return rng.choice(templates[language]).format(**words(combination, language)), LANGUAGES[language]


def changed(combination: Combination, rng: random.Random, names: tuple[str, ...]) -> Combination:
    """The combination with one of the named attributes changed: on its side of the split where there is one, else in train."""
    others = [
        dataclasses.replace(combination, **{name: value})
        for name in names
        for value in VALUES[name]
        if value != getattr(combination, name)
    ]
    near = [other for other in others if split_of(other) == split_of(combination)]
    return rng.choice(near or [other for other in others if split_of(other) == "train"])


def _pairs(kind: type, split: str, count: int, templates: tuple, draw, name: str) -> Iterator[Record]:
    """Caption -> media records: each test combination once; in training, `count` of them, each with a near miss."""
    pool, names = combinations(kind, split), tuple(field.name for field in dataclasses.fields(kind))
    for i in range(count if split == "train" else len(pool)):
        combination, rng = pool[i % len(pool)], random.Random(f"{name} {split} {i}")
        text, language = caption(combination, templates, rng)
        negatives: tuple[Content, ...] = ()
        if split == "train":
            negatives = ((draw(changed(combination, rng, names), rng),),)
        yield Record(f"{name}-{split}-{i}", (Text(text),), (draw(combination, rng),), negatives, language)


def _image(scene: Combination, rng: random.Random) -> Image:
    assert isinstance(scene, Scene)
    return Image(render.image(scene, rng))


def _video(clip: Combination, rng: random.Random) -> Video:
    assert isinstance(clip, Clip)
    return Video(render.video(clip, rng))


def _audio(melody: Combination, rng: random.Random) -> Audio:
    assert isinstance(melody, Melody)
    return Audio(render.audio(melody, rng))


def images(split: str) -> Iterator[Record]:
    """Caption -> picture."""
    return _pairs(Scene, split, 5000, IMAGE_CAPTIONS, _image, "scenes_image")


def videos(split: str) -> Iterator[Record]:
    """Caption -> clip."""
    return _pairs(Clip, split, 1800, VIDEO_CAPTIONS, _video, "scenes_video")


def sounds(split: str) -> Iterator[Record]:
    """Caption -> melody."""
    return _pairs(Melody, split, 1800, AUDIO_CAPTIONS, _audio, "scenes_audio")


def noisy(split: str) -> Iterator[Record]:
    """Caption -> picture as the web has them: one in ten belongs to another picture, one in five lost words."""
    pool = combinations(Scene, split)
    for i in range(6000 if split == "train" else len(pool)):
        scene, rng = pool[i % len(pool)], random.Random(f"scenes_noisy {split} {i}")
        fate = rng.random() if split == "train" else 1.0
        text, language = caption(rng.choice(pool) if fate < 0.1 else scene, IMAGE_CAPTIONS, rng)
        if 0.1 <= fate < 0.3:
            text = " ".join(word for word in text.split() if rng.random() > 0.3) or text
        yield Record(f"scenes_noisy-{split}-{i}", (Text(text),), (_image(scene, rng),), (), language)


def edits(split: str) -> Iterator[Record]:
    """Picture and "the same, but blue" -> the other picture; the unchanged picture is the hard negative in training."""
    pool, names = combinations(Scene, split), ("shape", "colour", "size", "place", "ground")
    for i in range(4000 if split == "train" else len(pool)):
        after, rng = pool[i % len(pool)], random.Random(f"scenes_edit {split} {i}")
        before, language = changed(after, rng, names), rng.randrange(len(LANGUAGES))
        (name,) = (name for name in names if getattr(before, name) != getattr(after, name))
        wish = EDITS[language].format(change=words(after, language)[name])
        start = _image(before, rng)
        negatives: tuple[Content, ...] = ((start,),) if split == "train" else ()
        query = (start, Text(wish))
        yield Record(f"scenes_edit-{split}-{i}", query, (_image(after, rng),), negatives, LANGUAGES[language])


def labels(split: str) -> Iterator[Record]:
    """Utterance -> one of 48 labels such as "red star"; labels are on every side, combinations are not."""
    seen: set[str] = set()
    for i, (scene, n) in enumerate(itertools.product(combinations(Scene, split), range(3 if split == "train" else 2))):
        rng = random.Random(f"scenes_labels {split} {i} {n}")
        assert isinstance(scene, Scene)
        text, language = caption(scene, WISHES, rng)
        if text in seen and split != "train":
            continue
        seen.add(text)
        label, negatives = f"{scene.colour} {scene.shape}", ()
        if split == "train":
            other = changed(scene, rng, ("shape", "colour"))
            assert isinstance(other, Scene)
            negatives = ((Text(f"{other.colour} {other.shape}"),),)
        yield Record(f"scenes_labels-{split}-{i}", (Text(text),), (Text(label),), negatives, language, label)
