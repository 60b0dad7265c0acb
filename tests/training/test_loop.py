"""Updates that are not finite are skipped and counted; metrics are logged per step and per source; frozen parameters do
not change and cost neither gradients nor optimizer state."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ARCH

from embed.batch import Candidates, Inputs, Pairs
from embed.data.budget import Budget
from embed.data.modalities import Text
from embed.data.records import Record, RecordError
from embed.data.tasks import Task
from embed.losses import temperature
from embed.losses.loss import Params
from embed.model import params as partition
from embed.model.build import build
from embed.training import checkpoint, loop, metrics, optim
from embed.training.metadata import read_metadata
from embed.training.step import make_step
from embed.training.weights import load_params

GOOD = Task("good", 4, 1.0, Budget(8), Budget(8))
BAD = dataclasses.replace(GOOD, name="bad", candidates=Candidates(margin=0.1))  # the mark that `loss` looks at


class Records:
    """Four records; if `broken`, the last one cannot be read."""

    def __init__(self, broken: bool = False):
        self.broken = broken

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Record:
        if self.broken and index == 3:
            raise RecordError("line 3: not JSON")
        return Record(str(index), (Text(f"number {index}"),), (Text(f"def f{index}"),))


def loss(params, pairs, candidates, key):
    value = jnp.sum(jnp.square(params.encoder["vocabulary"] - 1))
    return value * (1.0 if candidates.margin is None else jnp.nan), {"accuracy": jnp.float32(0.5)}


def fit(folder, preprocessor, tasks, sources, steps, loss=loss, trainable=partition.all_params, **config):
    optimizer = optim.adamw(1e-2, warmup=1, steps=100)
    often = loop.LoopConfig(save=1, keep=100, **config)
    encoder = build(ARCH, remat=False)
    run = loop.Run(
        encoder, tasks, loss, optimizer, steps, seed=0, data=folder, trainable=trainable, loop=often, folder=folder
    )
    return loop.fit(run, preprocessor, sources)


def every_leaf(params, pairs, candidates, key):
    """A loss with a gradient for every parameter."""
    value = sum(jnp.mean(jnp.square(leaf - 3)) for leaf in jax.tree.leaves(params))
    return value, {"accuracy": jnp.float32(0)}


def backbone(path):
    return path[0] == "backbone"


def same(a, b) -> list[bool]:
    """Which leaves are equal bit for bit."""
    return jax.tree.leaves(jax.tree.map(np.array_equal, a, b))


def rows(run) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_an_update_that_is_not_finite_is_skipped_and_counted(tmp_path, preprocessor):
    state = fit(tmp_path, preprocessor, [GOOD, BAD], [Records(), Records()], steps=6)
    log = rows(tmp_path)
    assert [row["step"] for row in log] == list(range(6))
    bad = [row["task"] == "bad" for row in log]
    assert sum(bad) == 3
    assert [np.isnan(row["loss"]) for row in log] == bad
    assert [row["skipped"] for row in log] == list(np.cumsum(bad))
    assert [row["skipped_in_a_row"] > 0 for row in log] == bad

    tables = [load_params(tmp_path / "checkpoints" / str(step))["vocabulary"] for step in range(1, 7)]
    warm = 1 + bad.index(False)  # the first update of the warm-up has a rate of zero
    for step in range(warm, 6):
        assert np.array_equal(tables[step], tables[step - 1]) == bad[step]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.encoder))
    assert int(state.step) == 6
    assert [path for path in (tmp_path / "tensorboard").glob("events.out.tfevents.*") if path.stat().st_size > 500]


def test_too_many_in_a_row_stop_the_run(tmp_path, preprocessor):
    with pytest.raises(metrics.Diverged, match="3 updates in a row were not finite, at step 2 of task bad"):
        fit(tmp_path, preprocessor, [BAD], [Records()], steps=9, patience=3)
    assert [row["skipped_in_a_row"] for row in rows(tmp_path)] == [1, 2, 3]
    assert checkpoint.saved_steps(tmp_path)[-1] < 3


def test_quarantined_records_are_counted_by_source(tmp_path, preprocessor, caplog):
    broken = dataclasses.replace(GOOD, name="broken")
    fit(tmp_path, preprocessor, [GOOD, broken], [Records(), Records(broken=True)], steps=4)
    log = rows(tmp_path)
    assert {(row["task"], row["quarantined"]) for row in log} == {("good", 0), ("broken", 1)}
    assert "quarantined so far, by source: {'broken': 2}" in caplog.text


def test_the_journal_forgets_steps_after_the_checkpoint_and_a_torn_line(tmp_path):
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in range(5)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 5, "lo')
    with metrics.MetricsLogger(tmp_path, [GOOD], first=3, steps=9, every=10, patience=20):
        pass
    assert [row["step"] for row in rows(tmp_path)] == [0, 1, 2]


def test_what_is_frozen_stays_and_has_no_optimizer_state(tmp_path, preprocessor):
    begun = fit(tmp_path, preprocessor, [GOOD], [Records()], steps=0, loss=every_leaf, trainable=backbone)
    before = jax.tree.map(np.asarray, begun.encoder)
    state = fit(tmp_path, preprocessor, [GOOD], [Records()], steps=3, loss=every_leaf, trainable=backbone)
    (trained, frozen), (trained_before, frozen_before) = (
        partition.split_params(p, backbone) for p in (state.encoder, before)
    )
    assert all(same(frozen, frozen_before)) and not any(same(trained, trained_before))
    moments = state.optimizer.inner_state[1][0]
    assert partition.param_shapes(moments.mu.encoder) == partition.param_shapes(trained)
    assert partition.param_shapes(moments.nu.encoder) == partition.param_shapes(trained)
    counters = sum(leaf.ndim == 0 for leaf in jax.tree.leaves(state.optimizer))
    elements = sum(leaf.size for leaf in jax.tree.leaves(state.optimizer))
    assert elements == counters + 2 * sum(leaf.size for leaf in jax.tree.leaves(trained))
    assert all(same(load_params(tmp_path), state.encoder))  # the checkpoint is whole


def test_a_step_keeps_frozen_parameters_where_they_are():
    params = {"backbone": {"weight": jnp.ones((8, 8))}, "vocabulary": jnp.ones((64, 64))}
    optimizer = optim.adamw(1e-2, warmup=0, steps=9)

    def loss(params, pairs, candidates, key):
        return jnp.sum(params.encoder["backbone"]["weight"] @ params.encoder["vocabulary"][:8]), {}

    trained = Params(partition.split_params(params, backbone)[0], {})
    state = loop.TrainState(jnp.int32(0), params, {}, optimizer.init(trained))
    where = params["vocabulary"].unsafe_buffer_pointer()
    side = Inputs(*(jnp.zeros((4, 8), jnp.int32),) * 4, *(jnp.zeros((4, 0)),) * 4)  # the loss looks at none of it
    pairs = Pairs(side, side, side, *(jnp.zeros((4, 2), jnp.uint32),) * 3, jnp.ones(4, bool))
    state, _ = make_step(loss, optimizer, backbone)(state, pairs, Candidates(), jax.random.key(0))
    assert state.encoder["vocabulary"].unsafe_buffer_pointer() == where
    assert params["backbone"]["weight"].is_deleted()


def test_a_run_with_frozen_parts_goes_on_bit_for_bit(tmp_path, preprocessor):
    straight = fit(
        tmp_path / "straight", preprocessor, [GOOD], [Records()], steps=4, loss=every_leaf, trainable=backbone
    )
    fit(tmp_path / "stopped", preprocessor, [GOOD], [Records()], steps=2, loss=every_leaf, trainable=backbone)
    resumed = fit(tmp_path / "stopped", preprocessor, [GOOD], [Records()], steps=4, loss=every_leaf, trainable=backbone)
    assert all(same(resumed, straight)) and int(resumed.step) == 4


def test_another_choice_of_what_trains_is_refused(tmp_path, preprocessor):
    fit(tmp_path, preprocessor, [GOOD], [Records()], steps=1, loss=every_leaf, trainable=backbone)
    saved = read_metadata(tmp_path)["trained_parameters"]
    assert saved["backbone/final_norm/scale"] == [ARCH.d_model] and "vocabulary" not in saved
    for other in (partition.all_params, lambda path: path[0] == "vocabulary"):
        with pytest.raises(checkpoint.CheckpointError, match=r"trained_parameters\.\S+ was .* and is"):
            fit(tmp_path, preprocessor, [GOOD], [Records()], steps=2, loss=every_leaf, trainable=other)


def test_where_nothing_trains_the_paths_are_named(tmp_path, preprocessor):
    with pytest.raises(ValueError, match=r"nothing trains: .*\('audio', 'project', 'weight'\) and \('vocabulary',\)"):
        fit(tmp_path, preprocessor, [GOOD], [Records()], steps=1, trainable=lambda path: path[0] == "bakcbone")
    assert not list(tmp_path.iterdir())


def test_a_learned_temperature_is_the_runs_and_not_the_encoders(tmp_path, preprocessor):
    class Loss:
        def init(self, key):
            return {"temperature": {"scale": temperature.init_log_temperature(0.5)}}

        def __call__(self, params, pairs, candidates, key):
            return temperature.clipped_exp(params.loss["temperature"]["scale"]), {"warmth": jnp.float32(7)}

    def go(folder, steps, **more):
        optimizer = optim.adamw(1e-2, warmup=1, steps=100)
        run = loop.Run(
            build(ARCH, remat=False), [GOOD], Loss(), optimizer, steps, seed=0, data=folder, folder=folder, **more
        )
        return loop.fit(run, preprocessor, [Records()])

    go(tmp_path / "one", 2)
    state = go(tmp_path / "one", 4)
    assert 0.3 < float(jnp.exp(state.loss["temperature"]["scale"])) < 0.5  # 0.5 less three steps and no decay
    assert load_params(tmp_path / "one").keys() == state.encoder.keys()
    assert [row["warmth"] for row in rows(tmp_path / "one")] == [7] * 4  # any metric is logged, and none is required
    following = go(tmp_path / "two", 0, init=tmp_path / "one")
    np.testing.assert_allclose(following.loss["temperature"]["scale"], np.log(0.5), rtol=1e-6)
    assert all(same(following.encoder, state.encoder))
