import ast
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from embed import toy_corpora
from embed.data.media import decode
from embed.data.modalities import Audio, Content, Image, Text, Video
from embed.data.records import Record, content_hash, to_bytes
from embed.data.sources import open_split, read_records
from embed.toy_corpora import glyphs, melody, motion, pages, render, scenes, stdlib
from embed.toy_corpora.captions import LANGUAGES
from embed.toy_corpora.splits import SPLITS, assign_split, assign_splits

FEW = 40  # records of a split where whole corpora are not needed


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("corpora")
    toy_corpora.build(folder, max_records=FEW)
    return folder


@functools.cache
def whole(name: str, split: str) -> tuple[Record, ...]:
    return tuple(toy_corpora.CORPORA[name].records(split))


def hashes(name: str, split: str) -> tuple[set[bytes], set[bytes], set[bytes]]:
    """Return the content hashes of the queries, targets and negatives of a split."""
    found = whole(name, split)
    return (
        {content_hash(record.query).tobytes() for record in found},
        {content_hash(record.positive).tobytes() for record in found},
        {content_hash(negative).tobytes() for record in found for negative in record.negatives},
    )


def data(content: Content) -> bytes:
    """Return the encoded file that a content begins with."""
    assert isinstance(content[0], Image | Audio | Video)
    return content[0].data


def changes(a: object, b: object) -> int:
    """Count the attributes in which two scenes, clips or melodies differ."""
    return sum(x != y for x, y in zip(dataclasses.astuple(a), dataclasses.astuple(b), strict=True))  # type: ignore


def manifest(root: pathlib.Path, name: str) -> dict:
    return json.loads((root / name / "manifest.json").read_text())


def test_manifests_say_what_the_files_hold(root):
    for name, corpus in toy_corpora.CORPORA.items():
        facts = manifest(root, name)
        assert facts["task"] == corpus.task and facts["source"] and facts["license"]
        assert sorted(path.name for path in (root / name).glob("*.array_record")) == sorted(facts["sha256"])
        for split in corpus.splits:
            file = root / name / f"{split}.array_record"
            assert len(open_split(root / name, split)) == facts["counts"][split] == FEW
            assert hashlib.sha256(file.read_bytes()).hexdigest() == facts["sha256"][file.name]
        assert not list((root / name).glob("*.partial"))


def test_files_hold_the_records(root):
    for name, corpus in toy_corpora.CORPORA.items():
        expected = [to_bytes(r) for r, _ in zip(corpus.records("train"), range(FEW), strict=False)]
        assert [to_bytes(r) for r in read_records(open_split(root / name, "train"))] == expected
        assert all(
            record.lang and record.id.startswith(f"{name}/")
            for record in read_records(open_split(root / name, "train"))
        )


def test_a_second_build_touches_nothing(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    toy_corpora.build(root, max_records=FEW)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_what_a_killed_build_left_is_built_again(root):
    folder, before = root / "scenes_image", manifest(root, "scenes_image")
    (folder / "manifest.json").unlink()
    (folder / "test.array_record").unlink()
    (folder / "train.array_record").write_bytes(b"half")
    (folder / "dev.partial").write_bytes(b"a part of")
    toy_corpora.build(root, max_records=FEW)
    assert manifest(root, "scenes_image") == before
    assert len(open_split(folder, "train")) == FEW
    assert not list(folder.glob("*.partial"))


def test_a_build_that_fails_leaves_no_manifest(tmp_path, monkeypatch):
    def broken(split: str):
        yield Record("a", (Text("query"),), (Text("target"),))
        raise OSError("disk full")

    monkeypatch.setattr(
        toy_corpora, "CORPORA", {"broken": toy_corpora.CORPORA["scenes_image"]._replace(records=broken)}
    )
    with pytest.raises(OSError, match="disk full"):
        toy_corpora.build(tmp_path)
    assert not list(tmp_path.rglob("manifest.json")) and not list(tmp_path.rglob("*.array_record"))


def test_another_process_writes_the_same_bytes(root, tmp_path):
    """The order of sets differs between processes; no output may depend on it. `stdlib` is left out to save time."""
    program = (
        "import pathlib, sys; from embed import toy_corpora\n"
        "toy_corpora.CORPORA = {k: v for k, v in toy_corpora.CORPORA.items() if not k.startswith('stdlib')}\n"
        f"toy_corpora.build(pathlib.Path(sys.argv[1]), max_records={FEW})"
    )
    home = pathlib.Path(toy_corpora.__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], check=True, cwd=home, env=os.environ | {"PYTHONHASHSEED": "7"}
    )
    for name in toy_corpora.CORPORA:
        if not name.startswith("stdlib"):
            assert manifest(tmp_path, name) == manifest(root, name), name


def test_splits_are_stable_and_of_the_size_asked_for():
    side = assign_splits(map(str, range(100)), dev=10, test=20)
    assert [list(side.values()).count(split) for split in SPLITS] == [70, 10, 20]
    assert side == assign_splits(map(str, reversed(range(100))), dev=10, test=20)
    assert (
        assign_split("shutil", 0, 1) == "test"
        and assign_split("shutil", 1, 0) == "dev"
        and assign_split("x", 0, 0) == "train"
    )


@pytest.mark.parametrize(
    "name", ["stdlib_code", "stdlib_text", "stdlib_document", "glyphs", "scenes_image", "scenes_edit"]
)
def test_no_target_is_there_twice_and_none_is_trained_on(name):
    train, test = hashes(name, "train"), hashes(name, "test")
    assert len(test[1]) == len(whole(name, "test")) and not any(record.negatives for record in whole(name, "test"))
    dev = hashes(name, "dev")
    assert not test[1] & (train[1] | train[2] | dev[1])
    assert not test[0] & train[0]
    for record in whole(name, "train"):
        assert content_hash(record.positive).tobytes() not in {content_hash(n).tobytes() for n in record.negatives}


@pytest.mark.parametrize("name, least", [("stdlib_code", 300), ("stdlib_text", 300), ("stdlib_document", 250)])
def test_stdlib_is_split_by_module(name, least):
    family = {item.path: item.family for item in stdlib.documented_items()}
    modules = {split: {family[r.id.partition("/")[2]] for r in whole(name, split)} for split in SPLITS}
    assert modules["train"] and not modules["train"] & modules["test"] and not modules["train"] & modules["dev"]
    assert not modules["dev"] & modules["test"]
    assert len(whole(name, "test")) >= least and len(whole(name, "dev")) >= 50 and len(whole(name, "train")) >= 1500
    assert sum(len(record.negatives) for record in whole(name, "train")) > 0.95 * len(whole(name, "train"))


def test_code_has_lost_its_docstring_and_still_parses():
    for record in (record for split in SPLITS for record in whole("stdlib_code", split)):
        (query,), (target,) = record.query, record.positive
        assert isinstance(query, Text) and isinstance(target, Text) and len(target.text) <= stdlib.MAX_SOURCE
        if len(target.text) < stdlib.MAX_SOURCE - 200:  # longer ones may be cut
            (function,) = ast.parse(target.text).body
            doc = ast.get_docstring(function)  # type: ignore[arg-type]
            assert not doc or not query.text.startswith(doc)


def test_text_does_not_repeat_its_query():
    for split in SPLITS:
        for record in whole("stdlib_text", split):
            (query,), (target,) = record.query, record.positive
            assert isinstance(query, Text) and isinstance(target, Text)
            assert query.text not in " ".join(target.text.split())


def test_pages_are_one_letter_a_patch():
    """The same letter in large type is the same patch, at every position."""
    page = decode.decode_image(pages.render_page("shutil", "copytree", "Recursively copy a directory tree.")).astype(
        int
    )
    assert page.shape == (pages.HEIGHT, pages.WIDTH, 3) and pages.title_fits("shutil", "copytree")
    cells = page.reshape(8, 8, 12, 8, 3).swapaxes(1, 2)
    assert (cells[0, 3] == cells[1, 4]).all() and (cells[0, 3] != cells[0, 4]).any()  # "t" of both words
    assert (cells[1, 6] == cells[1, 7]).all() and cells[7].min() == 255  # "ee"; nothing below so short a text
    assert not pages.title_fits("shutil", "a_very_long_name_of_a_function")
    assert pages.render_page("shutil", "copy", "x") != pages.render_page("shutil", "move", "x")


def test_questions_name_what_the_page_shows():
    record = whole("stdlib_document", "test")[0]
    assert isinstance(record.query[0], Text) and record.id.partition("/")[2] in record.query[0].text
    assert isinstance(record.positive[0], Image)
    assert decode.decode_image(data(record.positive)).shape == (64, 96, 3)


def test_glyphs_are_split_by_name():
    names = {
        split: {record.id.split("/", 1)[1].rpartition("/")[0] for record in whole("glyphs", split)} for split in SPLITS
    }
    assert not names["train"] & names["test"] and not names["train"] & names["dev"] and not names["dev"] & names["test"]
    assert len(whole("glyphs", "test")) == len(names["test"]) >= 250 and len(names["train"]) >= 2500
    for record in whole("glyphs", "train"):
        assert len(record.negatives) == 1
    for split in SPLITS:
        for record in whole("glyphs", split)[:100]:
            assert isinstance(record.positive[0], Image)
            pixels = decode.decode_image(data(record.positive))
            assert pixels.shape == (glyphs.SIDE, glyphs.SIDE, 3) and pixels.min() < 128


@functools.cache
def scene_of() -> dict[bytes, scenes.Scene]:
    """Map every image to its scene."""
    return {
        scenes.render_scene(scene, variant).data: scene
        for split in SPLITS
        for scene in scenes.scenes_by_split()[split]
        for variant in range(scenes.VARIANTS)
    }


def test_no_held_out_scene_is_in_any_training_set():
    held = {scene for split in ("dev", "test") for scene in scenes.scenes_by_split()[split]}
    assert len(scene_of()) == 2592 * scenes.VARIANTS and len(held) == 356
    for name in ("scenes_image", "scenes_noisy", "scenes_edit"):
        for record in whole(name, "train"):
            for part in (*record.query, *record.positive, *(part for n in record.negatives for part in n)):
                if isinstance(part, Image):
                    assert scene_of()[part.data] not in held
    for name in ("scenes_image", "scenes_edit"):
        for split, count in (("dev", scenes.DEV), ("test", scenes.TEST)):
            targets = [scene_of()[data(record.positive)] for record in whole(name, split)]
            assert len(targets) == count and set(targets) == set(scenes.scenes_by_split()[split])
    for record in whole("scenes_edit", "test"):
        assert scene_of()[data(record.query)] in set(scenes.scenes_by_split()["train"])


def test_negatives_differ_in_one_attribute():
    for name in ("scenes_image", "scenes_edit"):
        for record in whole(name, "train"):
            (negative,) = record.negatives
            assert changes(scene_of()[data(record.positive)], scene_of()[data(negative)]) == 1
            if name == "scenes_edit":
                assert negative[0] == record.query[0]


def test_negatives_of_clips_are_the_same_object_in_another_motion():
    known = {
        motion.render_clip(shown, 0).data: shown for shown in motion.clips_by_split()["train"][:150]
    }  # they are slow to make
    checked = 0
    for record in itertools.islice(motion.video_records("train"), 150):
        (negative,) = record.negatives
        if data(negative) in known:
            shown, other = known[data(record.positive)], known[data(negative)]
            assert changes(shown, other) == 1 and shown.motion != other.motion
            checked += 1
    assert checked > 10
    held = {shown for split in ("dev", "test") for shown in motion.clips_by_split()[split]}
    train = {shown.name for shown in motion.clips_by_split()["train"]}
    assert not train & {shown.name for shown in held}
    assert not {motion.render_clip(shown, 0).data for shown in itertools.islice(held, 40)} & {
        data(side) for r in itertools.islice(motion.video_records("train"), 150) for side in (r.positive, *r.negatives)
    }


def test_negatives_of_melodies_have_another_note_or_timbre():
    known = {
        melody.synthesize_melody(m, variant).data: m
        for m in melody.melodies_by_split()["train"]
        for variant in range(melody.VARIANTS)
    }
    for record in whole("scenes_audio", "train"):
        (negative,) = record.negatives
        played, other = known[data(record.positive)], known[data(negative)]
        assert changes(played, other) == 1 and played.tempo == other.tempo


def test_clips_and_melodies_are_split_by_what_they_show():
    for found, total, least in ((motion.clips_by_split(), 768, 200), (melody.melodies_by_split(), 1000, 200)):
        assert len(found["test"]) >= least and sum(map(len, found.values())) == total
        assert len(set().union(*found.values())) == total
    assert len(hashes("scenes_audio", "test")[1]) == melody.TEST
    assert not hashes("scenes_audio", "test")[1] & set().union(*hashes("scenes_audio", "train")[1:])


def test_captions_mean_one_thing():
    """A full caption of a held-out scene is that of no other scene, in any language."""
    for language in LANGUAGES:
        full = [
            language.scenes[0].format(
                object=language.noun_phrase(scene.shape, scene.color, scene.size),
                position=language.words[scene.position],
                background=language.words[scene.background],
            )
            for split in SPLITS
            for scene in scenes.scenes_by_split()[split]
        ]
        assert len(set(full)) == len(full)
    english, german, spanish, french = LANGUAGES
    assert english.noun_phrase("star", "orange") == "an orange star"
    assert german.noun_phrase("square", "red", "large") == "ein großes rotes Quadrat"
    assert spanish.noun_phrase("star", "red", "large") == "una estrella roja grande"
    assert french.noun_phrase("cross", "green", "small") == "une petite croix verte"


def test_noisy_captions_are_mostly_right():
    found = whole("scenes_noisy", "train")
    full = {
        template.format(
            object=language.noun_phrase(scene.shape, scene.color, scene.size),
            position=language.words[scene.position],
            background=language.words[scene.background],
        ): scene
        for language in LANGUAGES
        for template in language.scenes
        for split in SPLITS
        for scene in scenes.scenes_by_split()[split]
    }
    said = [(full.get(record.query[0].text), scene_of()[data(record.positive)]) for record in found]  # type: ignore
    partial = sum(scene is None for scene, _ in said) / len(said)
    wrong = sum(scene is not None and scene != shown for scene, shown in said) / len(said)
    assert 0.15 < partial < 0.25 and 0.07 < wrong < 0.13
    assert not any(record.negatives for record in found)
    assert not {scene for scene, _ in said if scene} - set(scenes.scenes_by_split()["train"])


def test_labels_are_everywhere_and_utterances_on_one_side():
    said = {split: {record.query[0].text for record in whole("scenes_labels", split)} for split in SPLITS}  # type: ignore
    assert not said["train"] & said["test"] and not said["train"] & said["dev"] and not said["dev"] & said["test"]
    assert len(whole("scenes_labels", "test")) == len(said["test"]) >= 300
    labels = {split: {record.label for record in whole("scenes_labels", split)} for split in SPLITS}
    assert len(labels["train"]) == len(labels["test"]) == 48
    for record in whole("scenes_labels", "train"):
        ((wrong,),) = record.negatives
        assert record.positive == (Text(record.label),) and isinstance(wrong, Text) and wrong.text in labels["train"]
        assert len({*record.label.split()} & {*wrong.text.split()}) == 1


def test_pictures_are_of_their_color():
    scene = scenes.Scene("square", "blue", "large", "bottom right", "plain")
    pixels = decode.decode_image(scenes.render_scene(scene, 0).data).astype(int)
    assert pixels.shape == (render.SIDE, render.SIDE, 3)
    red, green, blue = pixels[22:28, 22:28].reshape(-1, 3).mean(0)
    assert blue > 200 and red < 100 and green < 150 and pixels[:10, :10].min() == 255


@pytest.mark.parametrize("way, step", [("right", (1, 0)), ("left", (-1, 0)), ("up", (0, -1)), ("falling", (1, 1))])
def test_motion_shows_at_one_frame_a_second(way, step):
    clip = motion.render_clip(motion.Clip("circle", "blue", "large", way), 0)
    frames, times = decode.decode_video(clip.data, 32)
    assert frames.shape == (4, 32, 32, 3) and times.tolist() == [0, 1, 2, 3]
    ink = 255.0 - frames.mean(-1)
    ink[ink < 40] = 0
    along = np.arange(32)
    x, y = (ink.sum(1) @ along / ink.sum((1, 2)), ink.sum(2) @ along / ink.sum((1, 2)))
    assert np.allclose(np.diff(x), 6 * step[0], atol=1) and np.allclose(np.diff(y), 6 * step[1], atol=1)


def test_growth_shows_at_one_frame_a_second():
    for way, sign in (("grows", 1), ("shrinks", -1)):
        frames, _ = decode.decode_video(motion.render_clip(motion.Clip("star", "red", "small", way), 0).data, 32)
        size = (frames.min(-1) < 160).sum((1, 2))
        assert (sign * np.diff(size) > 0).all()


def test_a_note_is_the_same_in_every_frame_of_it():
    sound = melody.synthesize_melody(melody.Melody("low", "very high", "low", "organ", "long"), 0)
    samples = decode.decode_audio(sound.data)
    assert len(samples) == 3 * melody.NOTE_SAMPLES["long"] <= melody.SAMPLE_RATE
    frames = decode.frame_audio(samples, melody.FRAME)
    unit = frames / np.linalg.norm(frames, axis=1, keepdims=True)
    alike = unit @ unit.T
    assert alike[0, 1:4].min() > 0.99 and alike[0, 10:14].min() > 0.99 and abs(alike[0, 5:10]).max() < 0.1
