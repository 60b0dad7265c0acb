"""`batch = mixture[step]`: the same for any workers and hosts; what cannot be read is counted, not replaced."""

import dataclasses
import io
import itertools
import json

import jax
import numpy as np
import pytest
from PIL import Image as Pillow

from embed.batch import PAD_ID
from embed.data import mixture, writing
from embed.data.budget import Budget
from embed.data.modalities import Image, Text
from embed.data.packing import PackedRows, Packing
from embed.data.pieces import LimitError
from embed.data.preprocess import make_pieces
from embed.data.records import Record, RecordError, to_bytes
from embed.data.sources import ArrayRecordSource, JsonlSource, TfdsSource, open_split
from embed.data.tasks import Task, make_pairs
from embed.data.writing import write_records, write_shards


def png(shade: int) -> bytes:
    out = io.BytesIO()
    Pillow.new("RGB", (16, 16), (shade, 40, 200)).save(out, "PNG")
    return out.getvalue()


def records(count: int, bad: tuple[int, ...] = ()) -> list[Record]:
    return [
        Record(str(i), (Text(f"number {i}"),), (Image(png(i)[: 40 if i in bad else None]),), ((Image(png(i + 100)),),))
        for i in range(count)
    ]


TASKS = (
    Task("one", 8, 2.0, Budget(16), Budget(8, 1, 4), negatives=1),
    Task("two", 4, 1.0, Budget(24), Budget(12, 1, 4), prompt="search result", prompt_dropout=0.5),
)


@pytest.fixture
def sources(tmp_path):
    write_records(tmp_path / "train.array_record", records(21))
    return [ArrayRecordSource(tmp_path / "train.array_record")] * 2


def same(a, b) -> bool:
    return a[0] == b[0] and all(
        np.array_equal(x, y)
        for side in ("query", "target", "negative")
        for x, y in zip(vars(getattr(a[1], side)).values(), vars(getattr(b[1], side)).values(), strict=True)
    )


def test_same_batches_for_any_workers_and_any_start(sources, preprocessor):
    data = mixture.mixture(TASKS, sources, preprocessor, seed=3)
    plain = list(mixture.iterate_batches(data, 0, 9, workers=0))
    assert [number for number, _ in plain].count(0) == 6
    assert all(same(a, b) for a, b in zip(plain, mixture.iterate_batches(data, 0, 9, workers=2), strict=True))
    assert all(same(a, b) for a, b in zip(plain[5:], mixture.iterate_batches(data, 5, 9, workers=0), strict=True))


def test_tasks_epochs_and_seeds_have_orders_and_negatives_of_their_own():
    """Over equal sources, so that nothing else tells them apart."""
    count = 64
    tasks = [Task(name, 8, 1.0, Budget(8), Budget(8)) for name in ("one", "two", "three")]
    sources = [records(count)] * 3

    def drawn(seed: int) -> list[np.ndarray]:
        """i64[2 epochs, 64, 2] of each task."""
        order = mixture.task_order(tasks, sources, seed)
        keys: list[list[np.ndarray]] = [[], [], []]
        for step in range(3 * 2 * count // 8):
            number, batch = order[step]
            keys[number].append(batch)
        return [np.concatenate(batches).reshape(2, count, 2) for batches in keys]

    epochs = [epoch for seed in (3, 4) for task in drawn(seed) for epoch in task]
    # Tasks are seeded by the run's seed and their number: the second of seed 3 and the first of seed 4 are the same.
    assert all((np.sort(epoch[:, 0]) == np.arange(count)).all() for epoch in epochs)
    for one, other in itertools.combinations(epochs[:6], 2):
        assert (one[:, 0] == other[:, 0]).sum() < count // 4
        assert (one[:, 1] != other[:, 1]).all()  # what draws negatives and task strings
        one, other = (epoch[np.argsort(epoch[:, 0]), 1] for epoch in (one, other))
        assert (one != other).all()
    assert not any(np.array_equal(one, other) for one, other in zip(epochs[:6], epochs[6:], strict=True))
    assert all(map(np.array_equal, drawn(3), drawn(3)))


def test_hard_negatives_of_a_record_change_from_epoch_to_epoch_and_from_task_to_task(preprocessor):
    many = [
        Record(str(i), (Text(f"q{i}"),), (Text(f"p{i}"),), tuple((Text(f"n{j}"),) for j in range(9))) for i in (0, 1)
    ]
    tasks = [Task(name, 2, 1.0, Budget(16), Budget(16), negatives=2) for name in ("one", "two")]
    data = mixture.mixture(tasks, [many, many], preprocessor, seed=3)
    drawn: dict[int, set[bytes]] = {0: set(), 1: set()}
    for step in range(20):
        number, pairs = data[step]
        first = pairs.query_hash[0].tobytes()
        drawn[number].add(first + pairs.negative_hash.tobytes())
    assert all(len(seen) > 5 for seen in drawn.values()) and not drawn[0] & drawn[1]


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_together_read_the_same_rows_in_the_same_places(sources, preprocessor, hosts):
    whole = mixture.mixture(TASKS, sources, preprocessor, seed=3)
    shards = np.arange(4).reshape(hosts, -1)  # of a mesh where each host has 4 / hosts
    parts = [mixture.mixture(TASKS, sources, preprocessor, seed=3, shards=shard, num_shards=4) for shard in shards]
    for step in range(6):
        number, pairs = whole[step]
        shares = [part[step] for part in parts]
        assert {n for n, _ in shares} == {number}
        for name in ("query_hash", "target_hash", "negative_hash"):
            joined = np.concatenate([getattr(share, name) for _, share in shares])
            assert np.array_equal(joined, getattr(pairs, name))


def test_a_record_that_cannot_be_decoded_is_kept_out_and_logged(tmp_path, preprocessor, caplog):
    write_records(tmp_path / "train.array_record", records(8, bad=(2, 5)))
    task = Task("broken", 8, 1.0, Budget(16), Budget(8, 1, 4))
    _, pairs = mixture.mixture([task], [ArrayRecordSource(tmp_path / "train.array_record")], preprocessor, seed=0)[0]
    assert pairs.valid.sum() == 6
    assert not pairs.target.segments[~pairs.valid].any()
    assert caplog.text.count("quarantined: task broken, record") == 2 and "image" in caplog.text


def test_jsonl_names_file_line_and_field(tmp_path):
    lines = [
        {"id": "a", "query": [{"text": "x"}], "positive": [{"image": "../secret.png"}]},
        {"id": "b", "query": [{"text": "x", "image": "y"}], "positive": [{"text": "z"}]},
        {"id": "c", "query": [{"text": "x"}], "positive": [{"text": "z"}], "more": 1},
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\nnot json\n")
    source = JsonlSource(tmp_path, "train")
    assert len(source) == 4 and source[2].positive == (Text("z"),)
    for index, message in [(0, "leaves the dataset folder"), (1, "exactly one of"), (3, "not JSON")]:
        with pytest.raises(RecordError, match=rf"train.jsonl:{index + 1}.*{message}"):
            source[index]


@pytest.mark.parametrize("count", [1, 3, 7])
def test_a_batch_may_be_one_pair_of_a_source_of_any_size(preprocessor, count):
    tasks = [dataclasses.replace(TASKS[0], batch=1), dataclasses.replace(TASKS[1], batch=2)]
    data = mixture.mixture(tasks, [records(count), records(7)], preprocessor, seed=0)
    seen = {tuple(pairs.query_hash[0].tolist()) for number, pairs in (data[i] for i in range(30)) if number == 0}
    assert len(seen) == count


def test_any_random_access_examples_are_a_source():
    source = TfdsSource([{"caption": b"a cat"}], lambda e: Record("0", (Text(e["caption"].decode()),), (Text("cat"),)))
    assert source[0].query == (Text("a cat"),)


def test_a_text_of_a_million_characters_is_refused(preprocessor):
    with pytest.raises(LimitError, match="1,000,000 characters"):
        make_pieces((Text("a" * 1_000_000),), preprocessor)


def test_special_tokens_in_a_text_are_text(preprocessor):
    ids = preprocessor.tokenizer.encode("<|image|> <pad> <bos>")
    assert not {preprocessor.tokenizer.image[1], PAD_ID} & set(ids) and len(ids) > 6


def test_an_unknown_prompt_is_an_error():
    with pytest.raises(ValueError, match="unknown prompt 'sarch result'; one of: search result"):
        Task("t", 1, 1.0, Budget(8), Budget(8), prompt="sarch result")


def from_example(example: dict) -> Record:
    return Record(example["id"], (Text(example["text"]),), (Text(f"answer to {example['text']}"),))


@pytest.fixture
def every_source(tmp_path, monkeypatch):
    """Four tasks, two of them packed, whose records come from JSONL, one ArrayRecord file, shards and examples; some of
    the first three cannot be read or decoded."""
    sides = [([{"text": f"line {i}"}], [{"text": "word " * (i % 5)}]) for i in range(30)]
    lines = [{"id": str(i), "query": query, "positive": positive} for i, (query, positive) in enumerate(sides)]
    written = [json.dumps(line) if i % 7 else "no JSON" for i, line in enumerate(lines)]
    (tmp_path / "train.jsonl").write_text("\n".join(written))
    write_records(tmp_path / "one.array_record", records(21, bad=(3, 8)))
    monkeypatch.setattr(writing, "SHARD_BYTES", 1000)
    assert len(write_shards(tmp_path, "many", map(to_bytes, records(25, bad=(0, 24))))) > 3
    examples = [{"id": str(i), "text": f"example {i}"} for i in range(19)]
    text, image = PackedRows(2, 8, Budget(48)), PackedRows(4, 8, Budget(24, 4, 4))
    tasks = (
        Task("jsonl", 8, 1.0, Budget(16), Budget(24), packing=Packing(4, text, text)),
        Task("one", 8, 1.0, Budget(16), Budget(8, 1, 4), negatives=1),
        Task("many", 8, 1.0, Budget(16), Budget(8, 1, 4), packing=Packing(4, text, image)),
        Task("examples", 4, 1.0, Budget(16), Budget(16)),
    )
    found = [
        JsonlSource(tmp_path, "train"),
        ArrayRecordSource(tmp_path / "one.array_record"),
        open_split(tmp_path, "many"),
    ]
    return tasks, [*found, TfdsSource(examples, from_example)]


def leaves(batch) -> list[np.ndarray]:
    return jax.tree.leaves(batch[1])


def test_with_packing_and_quarantine_a_step_of_every_source_has_one_batch(every_source, preprocessor):
    tasks, found = every_source
    data = mixture.mixture(tasks, found, preprocessor, seed=4)
    wanted = [data[step] for step in range(12)]
    assert {number for number, _ in wanted} == {0, 1, 2, 3}
    lost = {number: sum((~pairs.valid).sum() for n, pairs in wanted if n == number) for number in range(4)}
    assert lost[0] and lost[1] and lost[2] and not lost[3]
    for workers, start in ((0, 5), (2, 0), (4, 3)):
        for one, other in zip(mixture.iterate_batches(data, start, 12, workers), wanted[start:], strict=True):
            assert one[0] == other[0] and all(map(np.array_equal, leaves(one), leaves(other)))
    tasks = [dataclasses.replace(task, batch=16) for task in tasks]  # of four groups, where it is packed
    whole = mixture.mixture(tasks, found, preprocessor, seed=4)
    for hosts in (2, 4):  # each with its share of the four parts of a mesh
        own = [mixture.mixture(tasks, found, preprocessor, 4, lines, 4) for lines in np.arange(4).reshape(hosts, -1)]
        for step in (0, 1, 2, 3, 9):
            shares = [share[step] for share in own]
            joined = [np.concatenate(several) for several in zip(*map(leaves, shares), strict=True)]
            assert all(map(np.array_equal, joined, leaves(whole[step])))


def test_an_input_that_is_cut_to_its_budget_is_counted(tmp_path, preprocessor):
    pairs = [("short", "short"), ("word " * 40, "short"), ("short", "word " * 40), ("short", "short")]
    written = [Record(str(i), (Text(query),), (Text(positive),)) for i, (query, positive) in enumerate(pairs)]
    write_records(tmp_path / "train.array_record", written)
    task = Task("cut", 4, 1.0, Budget(16), Budget(16))
    source = ArrayRecordSource(tmp_path / "train.array_record")
    found = make_pairs(task, preprocessor, source, np.stack([np.arange(4), np.zeros(4, int)], axis=1))
    assert found.truncated.tolist() == [False, True, True, False] and found.valid.all()
