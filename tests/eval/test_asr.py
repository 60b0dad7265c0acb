import io
import json
import sys

import jax
import numpy as np
import pytest
import soundfile
from conftest import ARCH

from configs import cpu
from embed.data.discover import DatasetError
from embed.data.media.decode import MediaError, decode_audio
from embed.data.modalities import Audio, Image, Text
from embed.data.preprocess import Preprocessor
from embed.data.records import Record
from embed.data.sources import open_split, read_records
from embed.eval.asr import transcribe, with_noise
from embed.eval.benchmarks import score
from embed.model.build import build
from embed.model.encoder import init_params
from embed.model.presets import PRESETS
from embed.training.config_check import ConfigError
from embed.training.metadata import metadata_for
from embed.training.weights import save_params
from experiments.studies import arms, cascade


def sound(pitch: float, seconds: float = 0.6, loudness: float = 0.1) -> bytes:
    out, time = io.BytesIO(), np.arange(int(16_000 * seconds)) / 16_000
    soundfile.write(out, loudness * np.sin(2 * np.pi * pitch * time), 16_000, format="WAV", subtype="FLOAT")
    return out.getvalue()


@pytest.mark.parametrize("ratio", [20.0, 0.0, -6.0])
def test_noise_has_the_power_it_is_said_to_have(ratio):
    clean = sound(440, 2)
    noise = decode_audio(with_noise(clean, ratio, 1)).astype(float) - decode_audio(clean)
    power = np.mean(np.square(decode_audio(clean), dtype=float)) / np.mean(np.square(noise))
    assert 10 * np.log10(power) == pytest.approx(ratio, abs=0.2)
    assert with_noise(clean, ratio, 1) == with_noise(clean, ratio, 1) != with_noise(clean, ratio, 2)


def test_silence_stays_silence_and_what_is_no_sound_is_said():
    assert not decode_audio(with_noise(sound(440, loudness=0), 0, 1)).any()
    with pytest.raises(MediaError):
        with_noise(b"no sound", 0, 1)


def test_what_is_english_speech():
    heard, text = (Audio(b"x"),), (Text("y"),)
    assert cascade.is_english_speech(Record("a", heard, text, lang="en"))
    assert cascade.is_english_speech(Record("a", heard, text, lang="en-de"))
    for query, lang in ((heard, "de-en"), (heard, ""), (text, "en"), ((*heard, *text), "en"), ((Image(b"x"),), "en")):
        assert not cascade.is_english_speech(Record("a", query, text, lang=lang))


def test_what_is_heard_alike_is_no_excuse():
    """Two utterances with one transcript are two queries, of which one text can find the answer of one only."""
    records = [
        Record(str(i), (Text("(nothing)"),), (Text(f"digit {i}"),), ((Text("digit 0"),),), "en") for i in range(4)
    ]
    found = cascade.make_benchmark("digits", records)
    assert len(found.queries) == 4 and found.relevance == ({0: 1}, {1: 1}, {2: 1}, {3: 1}) and len(found.corpus) == 4
    query, corpus = np.ones((4, 8), np.float32), np.eye(4, 8, dtype=np.float32)
    assert score(found, query, corpus, (8,))[8]["hit@1"] == 0.25


def test_the_recogniser_answers_in_words():
    """Even of silence: it hears "dog". What it makes of speech is measured, not tested; there is none here."""
    pytest.importorskip("pocketsphinx", reason="needs PocketSphinx: pip install '.[eval]'")
    for heard in (sound(440, loudness=0), sound(200, 1)):
        words = transcribe(heard)
        assert words == words.lower().strip() and words.replace(" ", "").replace("'", "").isalpha() | (words == "")
        assert transcribe(heard) == words


@pytest.fixture
def tones(tmp_path, monkeypatch, tokenizer):
    """A checkpoint, and two datasets of tones: one is told to be English."""
    monkeypatch.setitem(PRESETS, "tiny", ARCH)
    for name, lang in (("tones", "en"), ("noten", "de")):
        (tmp_path / "all" / name / "media").mkdir(parents=True)
        for split, count in (("train", 6), ("test", 3)):
            rows = []
            for i in range(count):
                file = f"media/{split}{i}.wav"
                (tmp_path / "all" / name / file).write_bytes(sound(200 + 40 * i))
                query, positive = [{"audio": file}], [{"text": f"tone {i}"}]
                rows.append({"id": f"{split}{i}", "query": query, "positive": positive, "lang": lang})
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (tmp_path / "all" / name / f"{split}.jsonl").write_text(lines)
    described = metadata_for(ARCH, Preprocessor(tokenizer, ARCH.media))
    save_params(tmp_path / "start", init_params(build(ARCH), jax.random.key(0)), described, tokenizer)
    config = cpu.get_config()
    config.update({"pairs": str(tmp_path / "all"), "steps": 1, "unroll": 1})
    config.workdir = str(tmp_path / "runs")
    return config


def test_a_missing_recogniser_and_missing_speech_are_said(tones, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(ConfigError, match=r"PocketSphinx.*pip install -e '\.\[eval\]'"):
        patch.setitem(sys.modules, "pocketsphinx", None)
        cascade.main(tones, str(tmp_path / "start"))
    (tmp_path / "all" / "tones" / "test.jsonl").rename(tmp_path / "test.jsonl")
    with pytest.raises(DatasetError, match=r"tones: the cascade needs pairs to test: add test\.jsonl"):
        cascade.main(tones, str(tmp_path / "start"))
    (tmp_path / "all" / "tones").rename(tmp_path / "tones")
    with pytest.raises(ConfigError, match=r"--config\.pairs=.*all: no dataset there has English speech"):
        cascade.main(tones, str(tmp_path / "start"))


@pytest.mark.slow
def test_both_ways_are_trained_and_compared(tones, tmp_path, monkeypatch, capsys):
    """With the real recogniser, whatever it hears in tones."""
    pytest.importorskip("pocketsphinx", reason="needs PocketSphinx: pip install '.[eval]'")
    monkeypatch.setattr(cascade, "SEEDS", (0, 1))
    monkeypatch.setattr(arms, "SEEDS", (0, 1))
    cascade.main(tones, str(tmp_path / "start"))
    table = capsys.readouterr().out
    assert "| MRR@10 | cascade | native | native − cascade |" in table and "noten" not in table
    assert [f"| tones, {split} |" in table for split in cascade.NOISE] == [True] * 3 and "2 seeds." in table
    heard = tmp_path / "runs" / "cascade"
    for split in ("train", *cascade.NOISE):
        sounds, words = (list(read_records(open_split(heard / way / "tones", split))) for way in ("native", "cascade"))
        assert [one.positive for one in sounds] == [one.positive for one in words]
        assert all(isinstance(one.query[0], Audio) for one in sounds)
        assert all(isinstance(one.query[0], Text) and one.query[0].text for one in words)
    clean, noisy = (list(read_records(open_split(heard / "native" / "tones", name))) for name in ("test", "test_0dB"))
    assert clean[0].query != noisy[0].query
