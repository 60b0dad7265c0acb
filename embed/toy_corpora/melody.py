"""Captions -> melodies of three notes, in four languages. Split by melody.

A note starts on a boundary of 40 ms and its pitch is a multiple of 25 Hz, so that a model that reads raw frames of
40 ms hears the same waveform in every frame of it.
"""

import dataclasses
import functools
import io
import itertools
import random
from collections.abc import Iterator

import numpy as np
import soundfile

from embed.data.modalities import Audio, Content, Text
from embed.data.records import Record
from embed.toy_corpora.captions import LANGUAGES, Language
from embed.toy_corpora.splits import SPLITS, assign_splits

DEV, TEST = 76, 224  # melodies
TURNS = 2  # captions of a melody in training, each with its own rendering
RATE, FRAME = 16_000, 640  # samples a second, and in 40 ms
PITCHES = {"very low": 200, "low": 325, "middle": 525, "high": 850, "very high": 1375}  # Hz
HARMONICS: dict[str, dict[int, float]] = {  # multiple of the pitch -> amplitude
    "sine": {1: 1},
    "square": {1: 1, 3: 1 / 3, 5: 1 / 5},
    "sawtooth": {1: 1, 2: 1 / 2, 3: 1 / 3, 4: 1 / 4, 5: 1 / 5},
    "organ": {1: 1, 2: 0.9, 4: 0.8},
}
NOTE_SAMPLES = {"short": 2 * FRAME, "long": 5 * FRAME}  # samples of a note
WORDS = {
    "very low": ("very low", "sehr tief", "muy grave", "très grave"),
    "low": ("low", "tief", "grave", "grave"),
    "middle": ("middle", "mittel", "media", "moyenne"),
    "high": ("high", "hoch", "aguda", "aiguë"),
    "very high": ("very high", "sehr hoch", "muy aguda", "très aiguë"),
    "sine": ("a pure tone", "ein reiner Sinuston", "un tono puro", "un son pur"),
    "square": ("a hollow square wave", "ein hohler Rechteckton", "una onda cuadrada", "une onde carrée"),
    "sawtooth": (
        "a buzzing sawtooth",
        "ein schnarrender Sägezahnton",
        "una onda de sierra",
        "une onde en dents de scie",
    ),
    "organ": ("a small organ", "eine kleine Orgel", "un órgano pequeño", "un petit orgue"),
    "short": ("short", "kurze", "cortas", "courtes"),
    "long": ("long", "lange", "largas", "longues"),
}
SENTENCES = (
    (
        "{timbre} plays three {tempo} notes: {first}, {second}, {third}",
        "three {tempo} notes, first {first}, then {second}, then {third}, like {timbre}",
    ),
    (
        "{timbre} spielt drei {tempo} Töne: {first}, {second}, {third}",
        "drei {tempo} Töne, erst {first}, dann {second}, dann {third}; es klingt wie {timbre}",
    ),
    (
        "{timbre} toca tres notas {tempo}: {first}, {second}, {third}",
        "tres notas {tempo}, primero {first}, luego {second}, luego {third}; suena como {timbre}",
    ),
    (
        "{timbre} joue trois notes {tempo} : {first}, {second}, {third}",
        "trois notes {tempo}, d'abord {first}, puis {second}, puis {third} ; on dirait {timbre}",
    ),
)


@dataclasses.dataclass(frozen=True)
class Melody:
    """What is played."""

    first: str
    second: str
    third: str
    timbre: str
    tempo: str

    @property
    def name(self) -> str:
        return "-".join(dataclasses.astuple(self)).replace(" ", "_")


@functools.cache
def melodies_by_split() -> dict[str, tuple[Melody, ...]]:
    """split -> its melodies, in a shuffled order that never changes."""
    choices = itertools.product(PITCHES, PITCHES, PITCHES, HARMONICS, NOTE_SAMPLES)
    found = {each.name: each for each in itertools.starmap(Melody, choices)}
    side = assign_splits(found, DEV, TEST)
    return {split: tuple(found[name] for name in side if side[name] == split) for split in SPLITS}


@functools.cache
def synthesize_melody(melody: Melody, variant: int) -> Audio:
    """One of the renderings: a WAV of 16-bit samples, its loudness and its faint noise set by the variant."""
    rng = np.random.default_rng(list(f"sound {melody.name} {variant}".encode()))
    time = np.arange(NOTE_SAMPLES[melody.tempo]) / RATE
    fade = np.minimum(1, np.arange(len(time), 0, -1) / (FRAME / 2))  # 20 ms, or equal notes would merge
    notes = []
    for name in (melody.first, melody.second, melody.third):
        parts = HARMONICS[melody.timbre].items()
        note = np.sum([gain * np.sin(2 * np.pi * PITCHES[name] * k * time) for k, gain in parts], axis=0)
        notes.append(fade * note / np.abs(note).max())
    samples = np.concatenate(notes) * rng.uniform(0.4, 0.8)
    file = io.BytesIO()
    noise = rng.normal(0, 0.002, len(samples))
    soundfile.write(file, samples + noise, RATE, format="WAV", subtype="PCM_16")
    return Audio(file.getvalue())


def make_caption(melody: Melody, language: Language, rng: random.Random) -> str:
    """A full description."""
    i = LANGUAGES.index(language)
    words = {name: WORDS[value][i] for name, value in dataclasses.asdict(melody).items()}
    return rng.choice(SENTENCES[i]).format(**words)


def audio_records(split: str) -> Iterator[Record]:
    """Caption -> melody. In training each comes against one with another note or another timbre."""
    seen = frozenset(melodies_by_split()["train"])
    for turn in range(TURNS if split == "train" else 1):
        for i, melody in enumerate(melodies_by_split()[split]):
            rng = random.Random(f"sounds {melody.name} {turn}")
            language = LANGUAGES[(i + turn) % len(LANGUAGES)]
            negatives: tuple[Content, ...] = ()
            if split == "train":
                near = [dataclasses.replace(melody, timbre=timbre) for timbre in HARMONICS]
                for note, pitch in itertools.product(("first", "second", "third"), PITCHES):
                    near.append(dataclasses.replace(melody, **{note: pitch}))
                near = [other for other in near if other != melody and other in seen]
                negatives = ((synthesize_melody(rng.choice(near), turn),),)
            query, target = (Text(make_caption(melody, language, rng)),), (synthesize_melody(melody, turn),)
            yield Record(f"scenes_audio/{melody.name}/{turn}", query, target, negatives, language.code)
