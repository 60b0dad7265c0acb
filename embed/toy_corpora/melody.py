"""Captions in four languages and melodies of three notes. Split by melody.

A note starts at a multiple of 40 ms and its pitch is a multiple of 25 Hz: a model with raw audio frames of 40 ms gets
the same waveform in every frame of a note.
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
VARIANTS = 2  # renderings of a melody in training, each with its own caption
SAMPLE_RATE = 16_000
FRAME = 640  # samples, 40 ms
PITCHES = {"very low": 200, "low": 325, "middle": 525, "high": 850, "very high": 1375}  # Hz
HARMONICS: dict[str, dict[int, float]] = {  # multiple of the pitch -> amplitude
    "sine": {1: 1},
    "square": {1: 1, 3: 1 / 3, 5: 1 / 5},
    "sawtooth": {1: 1, 2: 1 / 2, 3: 1 / 3, 4: 1 / 4, 5: 1 / 5},
    "organ": {1: 1, 2: 0.9, 4: 0.8},
}
NOTE_SAMPLES = {"short": 2 * FRAME, "long": 5 * FRAME}  # per note
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
    """Three pitches, a timbre and a tempo."""

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
    """Map every split to its melodies, in a fixed shuffled order."""
    choices = itertools.product(PITCHES, PITCHES, PITCHES, HARMONICS, NOTE_SAMPLES)
    by_name = {melody.name: melody for melody in itertools.starmap(Melody, choices)}
    split_of = assign_splits(by_name, DEV, TEST)
    return {split: tuple(by_name[name] for name in split_of if split_of[name] == split) for split in SPLITS}


@functools.cache
def synthesize_melody(melody: Melody, variant: int) -> Audio:
    """Render a melody as a 16-bit WAV; the variant sets its loudness and its faint noise."""
    rng = np.random.default_rng(list(f"sound {melody.name} {variant}".encode()))
    time = np.arange(NOTE_SAMPLES[melody.tempo]) / SAMPLE_RATE
    fade = np.minimum(1, np.arange(len(time), 0, -1) / (FRAME / 2))  # 20 ms, to separate equal notes
    notes = []
    for name in (melody.first, melody.second, melody.third):
        harmonics = HARMONICS[melody.timbre].items()
        note = np.sum([gain * np.sin(2 * np.pi * PITCHES[name] * k * time) for k, gain in harmonics], axis=0)
        notes.append(fade * note / np.abs(note).max())
    samples = np.concatenate(notes) * rng.uniform(0.4, 0.8)
    file = io.BytesIO()
    noise = rng.normal(0, 0.002, len(samples))
    soundfile.write(file, samples + noise, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return Audio(file.getvalue())


def make_caption(melody: Melody, language: Language, rng: random.Random) -> str:
    """Describe a melody in full."""
    i = LANGUAGES.index(language)
    words = {name: WORDS[value][i] for name, value in dataclasses.asdict(melody).items()}
    return rng.choice(SENTENCES[i]).format(**words)


def audio_records(split: str) -> Iterator[Record]:
    """Yield (caption, melody). In training, the hard negative differs in one note or in the timbre."""
    training = frozenset(melodies_by_split()["train"])
    for variant in range(VARIANTS if split == "train" else 1):
        for i, melody in enumerate(melodies_by_split()[split]):
            rng = random.Random(f"sounds {melody.name} {variant}")
            language = LANGUAGES[(i + variant) % len(LANGUAGES)]
            negatives: tuple[Content, ...] = ()
            if split == "train":
                neighbors = [dataclasses.replace(melody, timbre=timbre) for timbre in HARMONICS]
                for note, pitch in itertools.product(("first", "second", "third"), PITCHES):
                    neighbors.append(dataclasses.replace(melody, **{note: pitch}))
                neighbors = [other for other in neighbors if other != melody and other in training]
                negatives = ((synthesize_melody(rng.choice(neighbors), variant),),)
            query = (Text(make_caption(melody, language, rng)),)
            target = (synthesize_melody(melody, variant),)
            yield Record(f"scenes_audio/{melody.name}/{variant}", query, target, negatives, language.code)
