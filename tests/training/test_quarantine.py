"""A task with too many bad records stops the run and names the fault of the first; a few are skipped, and a batch
without a good record changes no parameter."""

import dataclasses
import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ARCH
from test_loop import GOOD, Records, fit, rows

from embed.data.budget import Budget
from embed.data.mixture import task_order
from embed.data.modalities import Text
from embed.data.packing import PackedRows, Packing
from embed.data.records import Record, RecordError
from embed.data.sources import JsonlSource
from embed.data.tasks import Task
from embed.losses.contrastive import contrastive_loss
from embed.model.build import build
from embed.training import loop, optim, quarantine
from embed.training.weights import load_params


def loss(params, pairs, candidates, key):
    """The contrastive loss of the mean of each side's token vectors: almost nothing to compile."""

    def embed(inputs):
        vectors = params.encoder["vocabulary"].at[inputs.tokens].get(out_sharding=jax.typeof(inputs.tokens).sharding)
        return jnp.sum(vectors * (inputs.segments > 0)[..., None], axis=1)

    sides = (embed(side) for side in (pairs.query, pairs.target, pairs.negative))
    return contrastive_loss(*sides, pairs, temperature=0.05, widths=ARCH.matryoshka_dims, candidates=candidates)


def go(folder, preprocessor, tasks, sources, steps, workers=0, **more):
    often = loop.LoopConfig(save=1, keep=100, workers=workers)
    run = loop.Run(
        build(ARCH, remat=False), tasks, loss, optim.adamw(1e-2, warmup=0, steps=100, decay=0.1),
        steps=steps, seed=0, data=folder, folder=folder, loop=often, **more,
    )  # fmt: skip
    return loop.fit(run, preprocessor, sources)


class Some:
    """Records; those of some indices cannot be read, or hold a text that is too long."""

    def __init__(self, count: int, unreadable: set[int] = frozenset(), long: set[int] = frozenset()):
        self.count, self.unreadable, self.long = count, unreadable, long

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:
        if index in self.unreadable:
            raise RecordError(f"line {index}: not JSON")
        text = "a" * 1_000_000 if index in self.long else f"number {index}"
        return Record(str(index), (Text(text),), (Text(f"def f{index}"),))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_task_whose_records_are_all_bad_stops_at_its_first_batch(tmp_path, preprocessor, workers):
    lines = [{"id": str(i), "query": [{"text": "x"}], "positive": [{"image": f"{i}.png"}]} for i in range(300)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))  # the pictures are not there
    broken = dataclasses.replace(GOOD, name="broken")
    with pytest.raises(quarantine.DataError) as error:
        go(tmp_path / "run", preprocessor, [GOOD, broken], [Some(50), JsonlSource(tmp_path, "train")], 40, workers)
    assert "task broken: all of 200 records sampled are bad; the first: record " in str(error.value)
    assert "train.jsonl:" in str(error.value) and "cannot read" in str(error.value) and "\n" not in str(error.value)
    assert [row["task"] for row in rows(tmp_path / "run")].count("broken") == 1


def test_more_bad_records_than_allowed_stop_the_run_after_an_epoch_of_a_small_task(tmp_path, preprocessor):
    source = Some(20, unreadable=set(range(6)), long=set(range(6, 12)))
    with pytest.raises(quarantine.DataError, match="task good: 12 of its last 20 records are bad") as error:
        go(tmp_path / "run", preprocessor, [GOOD], [source], 40)
    assert "allows a share of 0.5; the first: record " in str(error.value)
    assert len(rows(tmp_path / "run")) == 5
    go(tmp_path / "lenient", preprocessor, [GOOD], [source], 6, max_bad=0.6)
    go(tmp_path / "half", preprocessor, [GOOD], [Some(20, set(range(10)))], 6)


def test_of_a_large_task_the_last_200_records_count(tmp_path, preprocessor):
    task = dataclasses.replace(GOOD, batch=16)
    source = Some(10_000, unreadable=set(range(0, 10_000, 2)) | set(range(0, 10_000, 3)))
    order = task_order([task], [source], 0)
    watched = quarantine.Quarantine([task], [source], preprocessor, order, 0.5)
    for step in range(12):  # 192 records, two thirds of them bad
        watched.check(step, 0, 11)
    with pytest.raises(quarantine.DataError, match="143 of its last 208 records are bad"):
        watched.check(12, 0, 11)
    watched = quarantine.Quarantine([task], [source], preprocessor, order, 0.5)
    for step in range(50):  # bad ones at the start are forgotten
        watched.check(step, 0, 11 if step < 5 else 6)
    with pytest.raises(quarantine.DataError, match="last 208"):
        for step in range(50, 70):
            watched.check(step, 0, 15)
    assert step < 57


def test_a_batch_of_bad_records_alone_changes_nothing_and_the_run_goes_on(tmp_path, preprocessor):
    one = dataclasses.replace(GOOD, batch=1)
    source = Some(4, unreadable={3})
    for loss_of_all in (False, True):
        folder = tmp_path / str(loss_of_all)
        if loss_of_all:  # one that has a gradient whatever the pairs
            fit(folder, preprocessor, [one], [source], steps=8)
        else:
            go(folder, preprocessor, [one], [source], 8)
        log = rows(folder)
        bad = [row["pairs"] == 0 for row in log]
        assert bad == [row["quarantined"] == 1 for row in log] and sum(bad) == 2 and not bad[0]
        states = [load_params(folder / "checkpoints" / str(step)) for step in range(1, 9)]
        for before, after, nothing in zip(states, states[1:], bad[1:], strict=False):
            same = jax.tree.leaves(jax.tree.map(np.array_equal, before, after))
            assert all(same) if nothing else not all(same)


def test_pairs_that_find_no_room_are_not_bad(tmp_path, preprocessor):
    small = PackedRows(1, 1, Budget(16))
    task = Task("packed", 4, 1.0, Budget(16), Budget(16), packing=Packing(4, small, small))
    fit(tmp_path, preprocessor, [task], [Records()], steps=2)
    assert [(row["quarantined"], row["overflowed"], row["pairs"]) for row in rows(tmp_path)] == [(0, 3, 1)] * 2


class Equal(Some):
    """Records that share their positive."""

    def __getitem__(self, index: int) -> Record:
        return dataclasses.replace(super().__getitem__(index), positive=(Text("yes"),))


def test_a_task_that_has_nothing_to_learn_from_is_said_once(tmp_path, preprocessor, caplog):
    caplog.set_level(logging.WARNING)
    tasks = [dataclasses.replace(GOOD, name=name) for name in ("alone", "equal", "usual")]
    tasks[0] = dataclasses.replace(tasks[0], batch=1)
    go(tmp_path, preprocessor, tasks, [Some(9), Equal(9), Some(9)], 9)
    said = [record.getMessage() for record in caplog.records if "no query has a negative" in record.getMessage()]
    assert [line.split(",")[0] for line in sorted(said)] == ["task alone", "task equal"]
    assert {row["task"] for row in rows(tmp_path) if row["loss"] == 0} == {"alone", "equal"}


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_is_within_0_and_1(tmp_path, preprocessor, share):
    with pytest.raises(ValueError, match=f"max_bad is a share, from 0 to 1, not {share}"):
        go(tmp_path, preprocessor, [GOOD], [Some(4)], 1, max_bad=share)
