"""What a recipe starts from: random weights of a preset, or the foundation model that --config.pretrained names."""

import dataclasses
from collections.abc import Collection

from ml_collections import ConfigDict

from embed import hf
from embed.data.preprocess import Preprocessor
from embed.distributed import storage
from embed.model.config import Architecture
from embed.model.params import ParamFilter, all_params, without_tables
from embed.model.presets import PRESETS
from embed.training import checkpoint, metadata
from embed.training.config_check import ConfigError


@dataclasses.dataclass(frozen=True)
class Start:
    """What training starts from."""

    arch: Architecture
    init: storage.Path | None  # a run or a published model's folder; None: random weights
    trainable: ParamFilter  # what trains unless an experiment says otherwise: all, but not a foundation's token tables
    is_new: ParamFilter | None = None  # the parameters that the foundation lacks, if any

    @property
    def is_foundation(self) -> bool:
        return self.init is not None


def find_start(config: ConfigDict) -> Start:
    """Return what `config` starts from: the preset `config.model`, or the model `config.pretrained`.

    Raises ConfigError where `config.pretrained` is neither a run nor a published model.
    """
    if not config.pretrained:
        return Start(PRESETS[config.model], None, all_params)
    path = locate_pretrained(config.pretrained)
    if (path / "config.json").exists():
        arch = hf.read_architecture(path)
        return Start(arch, path, without_tables, _select(hf.find_new(path, arch)))
    saved = metadata.read_metadata(path)
    return Start(metadata.read_architecture(saved), path, without_tables, _select(saved.get("new", ())))


def _select(names: Collection[str]) -> ParamFilter | None:
    """The filter of the parameters of these names, "projection/weight" and such; None where there are none."""
    return (lambda path: "/".join(path) in names) if names else None


def require_foundation(config: ConfigDict) -> Start:
    """Return what `config.pretrained` is. Raise ConfigError where it is not set, or as `find_start` does."""
    if not config.pretrained:
        raise ConfigError("--config.pretrained is not set: give a run, a model's folder, or owner/model@COMMIT")
    return find_start(config)


def locate_pretrained(name: str) -> storage.Path:
    """Return the run, or the published model's folder, of that name. Raises ConfigError where there is none."""
    path = storage.path(name)
    try:
        checkpoint.locate(path)
        return path
    except checkpoint.CheckpointError as not_a_run:
        try:
            folder = hf.resolve(name)
        except hf.HubError as error:
            raise ConfigError(f"--config.pretrained={name}: {error}") from error
        if (folder / "config.json").exists():
            return folder
        raise ConfigError(
            f"--config.pretrained={name}: {not_a_run}, and no config.json of a published model; "
            "`python -m embed foundation gemma3_270m` makes one"
        ) from not_a_run


def load_pretrained_preprocessor(path: storage.Path) -> Preprocessor:
    """Load the preprocessor of a run or of a published model's folder. Raises as their loaders do."""
    if (path / "config.json").exists():
        return hf.load_preprocessor(path)
    return metadata.load_preprocessor(path)
