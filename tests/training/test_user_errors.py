"""A user's mistake is one line that names it and the choices; a defect keeps its traceback."""

import importlib
import os
import pathlib
import subprocess
import sys

import pytest
from ml_collections import config_dict

from configs import cpu
from embed import __main__ as commands
from embed.data.discover import DatasetError
from embed.data.pieces import LimitError
from embed.data.records import RecordError
from embed.distributed import storage
from embed.hf import HubError
from embed.training import main
from embed.training.checkpoint import CheckpointError
from embed.training.config_check import FIELDS, ConfigError, check_config, require_checkpoint
from embed.training.errors import report_user_errors
from embed.training.pretrained import require_foundation
from experiments.studies import cascade, negatives, order

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
        *((name, value, "an integer of at least 1") for name in COUNTS for value in (0, -3, "3", 2.0, True)),
        *((name, value, "an integer of at least 0") for name in ("steps", "workers") for value in (-1, "0")),
        *(("model", value, "choose one of tiny, ") for value in ("tinny", "", None)),
        *(("dtype", value, "choose one of float32, bfloat16") for value in ("float33", "int8", 4)),
        *(("mesh", value, "three integers") for value in ((1, 2), (0, -1, 1), (-1, 1, 1), (1, -2, 1), 8, "abc")),
        *(("mesh", value, "three integers") for value in ((1, 1, 1.0), (True, 1, 1), ())),
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
    config.update({"steps": 0, "workers": 0, "save": 1, "keep": 1, "log": 1, "mesh": (1, 1, 1)})
    check_config(config)
    with config.unlocked():
        del config.keep
    with pytest.raises(ConfigError, match="the config has no field keep"):
        check_config(config)


def write_nothing_finished(folder: pathlib.Path) -> None:
    (folder / "runs" / "mine" / "checkpoints").mkdir(parents=True)
    (folder / "one").mkdir()


@pytest.mark.parametrize("study", [negatives, order, cascade])
def test_a_checkpoint_that_does_not_exist_is_named_with_those_that_do(tmp_path, study):
    write_nothing_finished(tmp_path)
    config = cpu.get_config()
    config.update({"workdir": str(tmp_path / "runs"), "pairs": str(tmp_path)})
    choices = rf"choices: {tmp_path / 'runs' / 'mine'}$"
    with pytest.raises(ConfigError, match=r"--checkpoint is not set: .*" + choices):
        study.main(config)
    for name in (str(tmp_path / "nope"), str(tmp_path / "one")):
        with pytest.raises(ConfigError, match=rf"checkpoint {name}: no finished checkpoint.*" + choices):
            study.main(config, name)


@pytest.mark.parametrize("command", ["evaluate", "mine", "published"])
def test_a_command_without_its_checkpoint_is_one_line_with_the_choices(tmp_path, command, capsys):
    write_nothing_finished(tmp_path)
    line = [command, str(tmp_path / "nope"), *([str(tmp_path)] if command != "evaluate" else [])]
    assert commands.main([*line, "--workdir", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: checkpoint {tmp_path / 'nope'}: no finished checkpoint")
    assert error.count("\n") == 1 and error.endswith(f"choices: {tmp_path / 'runs' / 'mine'}\n")


def test_a_checkpoint_where_there_is_none_yet(tmp_path):
    with pytest.raises(ConfigError, match=r"--checkpoint is not set: .*there is none in .*runs yet"):
        require_checkpoint("", str(tmp_path / "runs"))
    # Embedder.load says what is wrong with it.
    assert require_checkpoint("owner/model@main", str(tmp_path / "runs")) == pathlib.Path("owner/model@main")


@pytest.mark.parametrize("name", ["", "nope/there", "owner/model@main"])
def test_a_published_model_that_is_not_there_is_named(name):
    config = cpu.get_config()
    config.pretrained = name
    with pytest.raises(ConfigError, match=rf"--config\.pretrained{'=' + name if name else ' is not set'}"):
        require_foundation(config)


@pytest.mark.parametrize("name", ["nope", "soup", "recipe", "../finetune", "__init__", "finetune__nope"])
def test_an_experiment_that_has_no_plan_is_named_with_those_that_have_one(name):
    with pytest.raises(ConfigError, match=r"is not an experiment with a plan; choices: finetune, .*scale$") as refused:
        main.load_experiment(name)
    assert str(refused.value).startswith(repr(name)) and " recipe," not in str(refused.value).partition(";")[2]
    assert main.load_experiment("finetune").START == "prefinetune"
    assert main.load_experiment("finetune__no_mask").__name__ == "experiments.ablations.finetune__no_mask"


@pytest.mark.parametrize(
    "kind", [ConfigError, CheckpointError, DatasetError, RecordError, LimitError, HubError, storage.StorageError]
)
def test_an_error_of_the_user_is_one_line(kind, capsys):
    with pytest.raises(SystemExit) as ended, report_user_errors():
        raise kind("what is wrong")
    assert ended.value.code == 2 and capsys.readouterr().err == "error: what is wrong\n"


@pytest.mark.parametrize("kind", [TypeError, AttributeError, ImportError, ValueError, KeyError])
def test_a_defect_stays_what_it_is(kind):
    with pytest.raises(kind), report_user_errors():
        raise kind("ours")


def lines(*command: str, folder: pathlib.Path = ROOT, status: int = 2) -> list[str]:
    """What a command that fails says on the terminal, without what JAX says of devices."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done.stderr.splitlines()


@pytest.mark.parametrize(
    "command, message",
    [
        (["-m", "experiments.finetune", "--config.keep=0"], "--config.keep=0: give an integer of at least 1"),
        (["-m", "experiments.finetune", "--config.mesh=(4,-1,1)"], "--config.mesh=(4, -1, 1): mesh (4, -1, 1)"),
        (["-m", "experiments.finetune", "--config=configs/nope.py", "--config.steps=1"], "configs/nope.py'; choices: "),
        (["-m", "experiments.finetune", "--forks=no_mask"], "Unknown command line flag 'forks'"),
        (["-m", "experiments.studies.order"], "--checkpoint is not set"),
        (
            ["-m", "experiments.studies.findings", "--forks=nope"],
            "finetune has no fork nope; choices: from_foundation, ",
        ),
        (["-m", "launch.mixture", "nope"], "'nope' is not an experiment with a plan; choices: finetune"),
        (["-m", "embed", "evalute"], "invalid choice: 'evalute' (choose from "),
        (["-m", "embed", "evaluate"], "nothing to evaluate: give a checkpoint, or --baselines"),
    ],
)
def test_a_command_says_it_in_one_line(command, message):
    (line,) = lines(*command)
    assert line.startswith("error: ") and message in line


def test_a_command_with_a_defect_ends_in_its_traceback(tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "mine.py").write_text(
        "from embed.training.main import run_script\nrun_script(lambda config: config.steps + '1')\n"
    )
    *trace, last = lines("mine.py", folder=tmp_path, status=1)
    assert any("mine.py" in line for line in trace) and last.startswith("TypeError: ")
