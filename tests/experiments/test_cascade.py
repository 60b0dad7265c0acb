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
from embed.eval.benchmarks import score
from embed.eval.noise import with_noise
from embed.hf.fields import HubError
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


def test_what_is_speech():
    clip, text = (Audio(b"x"),), (Text("y"),)
    for lang in ("en", "de-en", ""):
        assert cascade.is_speech(Record("a", clip, text, lang=lang))
    for query, lang in ((clip, "zxx"), (clip, "zxx-en"), (text, "en"), ((*clip, *text), "en"), ((Image(b"x"),), "en")):
        assert not cascade.is_speech(Record("a", query, text, lang=lang))


def test_what_is_heard_alike_is_no_excuse():
    """Two utterances with one transcript are two queries, of which one text can find the answer of one only."""
    records = [
        Record(str(i), (Text("(nothing)"),), (Text(f"digit {i}"),), ((Text("digit 0"),),), "en") for i in range(4)
    ]
    found = cascade.make_benchmark("digits", records)
    assert len(found.queries) == 4 and found.relevance == ({0: 1}, {1: 1}, {2: 1}, {3: 1}) and len(found.corpus) == 4
    query, corpus = np.ones((4, 8), np.float32), np.eye(4, 8, dtype=np.float32)
    assert score(found, query, corpus, (8,))[8]["hit@1"] == 0.25


@pytest.fixture
def tones(tmp_path, monkeypatch, tokenizer):
    """A checkpoint, and two datasets of tones, whose `lang` is German in one and no language (zxx) in the other."""
    monkeypatch.setitem(PRESETS, "tiny", ARCH)
    for name, lang in (("tones", "zxx"), ("noten", "de")):
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


def test_a_missing_recognizer_and_missing_speech_are_errors(tones, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(ConfigError, match=r"pip install -e '\.\[baselines\]'"):
        patch.setitem(sys.modules, "faster_whisper", None)
        cascade.main(tones, str(tmp_path / "start"))
    (tmp_path / "all" / "noten" / "test.jsonl").rename(tmp_path / "test.jsonl")
    with pytest.raises(DatasetError, match=r"noten: the cascade needs pairs to test: add test\.jsonl"):
        cascade.main(tones, str(tmp_path / "start"))
    (tmp_path / "all" / "noten").rename(tmp_path / "noten")
    with pytest.raises(ConfigError, match=r"--config\.pairs=.*all: no dataset there has speech"):
        cascade.main(tones, str(tmp_path / "start"))


@pytest.mark.slow
@pytest.mark.foundation
def test_both_systems_are_trained_and_compared(tones, tmp_path, monkeypatch, capsys):
    """With the real recognizer, whatever it makes of tones."""
    pytest.importorskip("faster_whisper", reason="needs the extra [baselines]")
    monkeypatch.setattr(cascade, "SEEDS", (0, 1))
    monkeypatch.setattr(arms, "SEEDS", (0, 1))
    try:
        cascade.main(tones, str(tmp_path / "start"))
    except HubError as error:
        pytest.skip(str(error))
    table = capsys.readouterr().out
    assert "| MRR@10 | cascade | native | native − cascade |" in table and "tones" not in table
    assert [f"| noten, {split} |" in table for split in cascade.NOISE] == [True] * 3 and "2 seeds." in table
    root = tmp_path / "runs" / "cascade"
    for split in ("train", *cascade.NOISE):
        audio, texts = (list(read_records(open_split(root / name / "noten", split))) for name in ("native", "cascade"))
        assert [record.positive for record in audio] == [record.positive for record in texts]
        assert all(isinstance(record.query[0], Audio) for record in audio)
        assert all(isinstance(record.query[0], Text) and record.query[0].text for record in texts)
    clean, noisy = (list(read_records(open_split(root / "native" / "noten", name))) for name in ("test", "test_0dB"))
    assert clean[0].query != noisy[0].query
