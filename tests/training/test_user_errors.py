"""What a user got wrong is one line that names it and the choices; what we got wrong keeps its traceback."""

import importlib
import os
import pathlib
import subprocess
import sys

import pytest
from ml_collections import config_dict

from configs import cpu
from embed.data.discover import DatasetError
from embed.data.pieces import LimitError
from embed.data.records import RecordError
from embed.distributed import storage
from embed.hf import HubError
from embed.training import main
from embed.training.checkpoint import CheckpointError
from embed.training.config_check import FIELDS, ConfigError, check_config, require_checkpoint, require_pretrained
from experiments import mine, published
from experiments.studies import negatives, order

ROOT = pathlib.Path(__file__).parents[2]
COUNTS = ("save", "keep", "log", "microbatch", "unroll")


@pytest.mark.parametrize("name", [path.stem for path in (ROOT / "configs").glob("[!_]*.py")])
def test_every_config_is_accepted(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    check_config(config)
    assert set(config) == set(FIELDS)  # a field that is new is checked, or it is not there


@pytest.mark.parametrize(
    "field, value, advice",
    [
        *((name, value, "a whole number of at least 1") for name in COUNTS for value in (0, -3, "3", 2.0, True)),
        *((name, value, "a whole number of at least 0") for name in ("steps", "workers", "dim") for value in (-1, "0")),
        *(("model", value, "choose one of tiny, ") for value in ("tinny", "", None)),
        *(("dtype", value, "choose one of float32, bfloat16") for value in ("float33", "int8", 4)),
        *(("mesh", value, "three whole numbers") for value in ((1, 2), (0, -1, 1), (-1, 1, 1), (1, -2, 1), 8, "abc")),
        *(("mesh", value, "three whole numbers") for value in ((1, 1, 1.0), (True, 1, 1), ())),
        *(("remat", value, "True or False") for value in (1, "yes")),
        *(("workdir", value, "a string") for value in (None, 3)),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_flag(field, value, advice):
    config = config_dict.ConfigDict(cpu.get_config().to_dict() | {field: value}, convert_dict=False)
    with pytest.raises(ConfigError) as refused:
        check_config(config)
    assert str(refused.value).startswith(f"--config.{field}={value!r}: ") and advice in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_zero_means_is_allowed_and_a_missing_field_is_named():
    config = cpu.get_config()
    config.update({"steps": 0, "workers": 0, "dim": 0, "save": 1, "keep": 1, "log": 1, "mesh": (1, 1, 1)})
    check_config(config)
    with config.unlocked():
        del config.keep
    with pytest.raises(ConfigError, match="the config has no field keep"):
        check_config(config)


@pytest.mark.parametrize("experiment", [mine, negatives, order, published])
def test_a_checkpoint_that_is_not_there_is_named_with_those_that_are(tmp_path, experiment):
    (tmp_path / "runs" / "mine" / "checkpoints").mkdir(parents=True)
    (tmp_path / "one").mkdir()
    config = cpu.get_config()
    config.update({"workdir": str(tmp_path / "runs"), "pairs": str(tmp_path)})
    there = rf"there are: {tmp_path / 'runs' / 'mine'}$"
    with pytest.raises(ConfigError, match=r"--config\.checkpoint is not set: .*" + there):
        experiment.main(config)
    for name in (str(tmp_path / "nope"), str(tmp_path / "one")):
        config.checkpoint = name
        with pytest.raises(ConfigError, match=rf"--config\.checkpoint={name}: no finished checkpoint.*" + there):
            experiment.main(config)


def test_a_checkpoint_where_there_is_none_yet(tmp_path):
    config = cpu.get_config()
    config.workdir = str(tmp_path / "runs")
    with pytest.raises(ConfigError, match=r"--config\.checkpoint is not set: .*there is none in .*runs yet"):
        require_checkpoint(config)
    config.checkpoint = "owner/model@main"  # Embedder.load says what is wrong with it
    assert require_checkpoint(config) == pathlib.Path("owner/model@main")


@pytest.mark.parametrize("name", ["", "nope/there", "owner/model@main"])
def test_a_published_model_that_is_not_there_is_named(name):
    config = cpu.get_config()
    config.pretrained = name
    with pytest.raises(ConfigError, match=rf"--config\.pretrained{'=' + name if name else ' is not set'}"):
        require_pretrained(config)


@pytest.mark.parametrize("name", ["nope", "pairs", "recipe", "../finetune", "__init__"])
def test_an_experiment_that_cannot_be_planned_is_named_with_those_that_can(name):
    with pytest.raises(ConfigError, match=r"is no experiment .*there are: finetune, .*prefinetune, scale$") as refused:
        main.load_experiment(name)
    assert str(refused.value).startswith(repr(name)) and "recipe," not in str(refused.value)
    assert main.load_experiment("finetune").NAME == "finetune"


@pytest.mark.parametrize(
    "kind", [ConfigError, CheckpointError, DatasetError, RecordError, LimitError, HubError, storage.StorageError]
)
def test_an_error_of_the_user_is_one_line(kind):
    with pytest.raises(SystemExit, match=r"^error: what is wrong$"), main.user_errors():
        raise kind("what is wrong")


@pytest.mark.parametrize("kind", [TypeError, AttributeError, ImportError, ValueError, KeyError])
def test_a_defect_stays_what_it_is(kind):
    with pytest.raises(kind), main.user_errors():
        raise kind("ours")


def lines(*command: str, folder: pathlib.Path = ROOT) -> list[str]:
    """What a command that fails says on the terminal, without what JAX says of devices."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    return done.stderr.splitlines()


@pytest.mark.parametrize(
    "command, message",
    [
        (["-m", "experiments.finetune", "--config.keep=0"], "--config.keep=0: give a whole number of at least 1"),
        (["-m", "experiments.finetune", "--config.mesh=(4,-1,1)"], "--config.mesh=(4, -1, 1): mesh (4, -1, 1)"),
        (["-m", "experiments.finetune", "--config=configs/nope.py", "--config.steps=1"], "configs/nope.py'; there are"),
        (["-m", "experiments.mine"], "--config.checkpoint is not set"),
        (["-m", "launch.mixture", "nope"], "'nope' is no experiment with tasks of its own; there are: finetune"),
    ],
)
def test_a_command_says_it_in_one_line(command, message):
    (line,) = lines(*command)
    assert line.startswith("error: ") and message in line


def test_a_command_with_a_defect_ends_in_its_traceback(tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "mine.py").write_text("from embed.training.main import run\nrun(lambda config: config.steps + '1')\n")
    *trace, last = lines("mine.py", folder=tmp_path)
    assert any("mine.py" in line for line in trace) and last.startswith("TypeError: ")
