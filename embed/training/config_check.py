"""Check a config before a program starts: each field's type and range, and that its checkpoint exists."""

from typing import Any

from ml_collections import ConfigDict

from embed.distributed import storage
from embed.model.presets import PRESETS
from embed.training import checkpoint as checkpoints

DTYPES = ("float32", "bfloat16", "float16")
# Integers -> the smallest one, and what 0 means where it is allowed.
COUNTS = {
    "unroll": (1, ""),
    "microbatch": (1, ""),
    "eval": (0, " (0: never)"),
    "save": (1, ""),
    "keep": (1, ""),
    "log": (1, ""),
    "workers": (0, " (0: threads)"),
    "steps": (0, " (0: the experiment's own)"),
}
CHOICES = {"model": tuple(PRESETS), "dtype": DTYPES}
STRINGS = ("workdir", "data", "pairs", "pretrained", "trust")
FIELDS = ("mesh", "remat", *CHOICES, *COUNTS, *STRINGS)


class ConfigError(ValueError):
    """A setting that cannot be used; the message names its flag, its value and the choices."""


def check_config(config: ConfigDict) -> None:
    """Raise ConfigError for the first field that is missing, of another type, or out of its range."""
    for name in FIELDS:
        if name not in config:
            raise ConfigError(f"the config has no field {name}: copy the line from configs/base.py")
    for name, choices in CHOICES.items():
        if config[name] not in choices:
            raise _refusal(name, config[name], f"choose one of {', '.join(choices)}")
    for name, (least, zero) in COUNTS.items():
        if type(config[name]) is not int or config[name] < least:
            raise _refusal(name, config[name], f"give an integer of at least {least}{zero}")
    for name in STRINGS:
        if not isinstance(config[name], str):
            raise _refusal(name, config[name], "give a string")
    if not isinstance(config.remat, bool):
        raise _refusal("remat", config.remat, "give True or False")
    if not _is_mesh(config.mesh):
        raise _refusal(
            "mesh",
            config.mesh,
            "give three integers of at least 1, (replica, data, model); data may be -1: all remaining devices",
        )


def _is_mesh(shape: Any) -> bool:
    if not isinstance(shape, tuple | list) or len(shape) != 3 or any(type(size) is not int for size in shape):
        return False
    replica, data, model = shape
    return replica >= 1 and model >= 1 and (data >= 1 or data == -1)


def _refusal(name: str, value: Any, advice: str) -> ConfigError:
    return ConfigError(f"--config.{name}={value!r}: {advice}")


def require_checkpoint(checkpoint: str, workdir: str) -> storage.Path:
    """Return the path of a checkpoint: a run or soup, or one `checkpoints/STEP` of it.

    A published model, by its folder or as owner/model@COMMIT, is returned as it is. Raises ConfigError, naming the runs
    in `workdir`, where none can be read.
    """
    if "@" in checkpoint:
        return storage.path(checkpoint)
    work = storage.path(workdir)
    runs = sorted(str(path.parent) for path in work.glob("*/checkpoints")) if work.is_dir() else []
    choices = f"choices: {', '.join(runs)}" if runs else f"there is none in {work} yet"
    if not checkpoint:
        raise ConfigError(f"--checkpoint is not set: give the folder of a run or soup; {choices}")
    path = storage.path(checkpoint)
    if not (path / "config.json").exists():
        try:
            checkpoints.locate(path)
        except checkpoints.CheckpointError as error:
            raise ConfigError(f"checkpoint {checkpoint}: {error}; {choices}") from error
    return path


def trusted_classes(config: ConfigDict) -> tuple[str, ...]:
    """Return the encoder classes outside `embed` that `config.trust` allows a checkpoint to name."""
    return tuple(name.strip() for name in config.trust.split(",") if name.strip())
