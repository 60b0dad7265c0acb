"""A foundation model's weights as a checkpoint: downloaded once, with its terms of use shown."""

import logging
import os

from embed.distributed import storage
from embed.hf.hub import GGUF, require_gguf
from embed.hf.packages import PackagedModel, fetch
from embed.training.checkpoint import CheckpointError, saved_steps
from embed.training.metadata import read_metadata
from embed.training.published import import_checkpoint

log = logging.getLogger(__name__)


def import_foundation(model: PackagedModel, run: str | os.PathLike, *, from_hub: bool = False) -> None:
    """Import a foundation model as the checkpoint `run`: its quantized file from packages, or the original of the hub.

    The log has the terms of use. A run that is this import already is left as it is. Raises HubError where the weights
    cannot be had or read, CheckpointError where `run` is another checkpoint.
    """
    if from_hub:
        log.info("%s: %s", model.original, model.terms)
        source = model.original
    else:
        require_gguf()
        folder = fetch(model)
        source = str(folder / next(file.name for file in model.files if file.name.endswith(GGUF)))
    if (origin := _read_origin(storage.path(run))) is None:
        import_checkpoint(source, run)
        log.info("%s: imported from %s", run, source)
    elif origin == source:
        log.info("%s: already imported from %s", run, source)
    else:
        raise CheckpointError(f"{run} is another checkpoint, from {origin or 'the seed'}: give a new folder")


def _read_origin(run: storage.Path) -> str | None:
    """What a checkpoint was initialized from, "" for its seed; None where there is no checkpoint."""
    return str(read_metadata(run).get("init") or "") if saved_steps(run) else None
