"""Conversion of checkpoints of version 0.1: `python -m embed migrate OLD NEW`.

Version 0.1 saved {step, params, opt}, with the loss's temperature among the encoder's parameters and other names for
fields of the metadata and for parameters of the audio tower. Values do not change.
"""

import dataclasses
import json
import logging
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from orbax.checkpoint import v1 as ocp

from embed.data.tasks import Task
from embed.data.tokenizer import Tokenizer
from embed.distributed import hosts, storage
from embed.model.config import Architecture, from_json
from embed.model.params import param_shapes
from embed.training import checkpoint
from embed.training.metadata import is_version_0_1

log = logging.getLogger(__name__)
ATTENTION = {"heads": "num_heads", "groups": "num_kv_heads", "theta": "rope_theta", "rotary": "partial_rotary_factor"}
MEDIA = {
    "patch": "patch_size",
    "side": "max_patches_per_side",
    "audio_frame": "audio_frame_size",
    "mel": "mel_bins",
    "clip": "clip_tokens",
}
VISION = {
    "width": "d_model",
    "hidden": "d_ff",
    "layers": "num_layers",
    "attention": ("attention", ATTENTION),
    "pool": "pool_size",
    "positions": "num_positions",
}
AUDIO = {
    "width": "d_model",
    "layers": "num_layers",
    "heads": "num_heads",
    "channels": "conv_channels",
    "kernel": "conv_kernel",
    "chunk": "chunk_size",
    "left": "left_context",
    "right": "right_context",
    "cap": "logit_cap",
    "residual": "ffn_residual_weight",
    "bound": "activation_clip",
    "out": "output_dim",
}
ARCHITECTURE = {
    "vocabulary": "vocab_size",
    "width": "d_model",
    "hidden": "d_ff",
    "groups": "layer_groups",
    "locals": "local_per_group",
    "widths": "matryoshka_dims",
    "per_layer": "per_layer_dim",
    "per_layer_vocabulary": "per_layer_vocab_size",
    "shared_groups": "shared_kv_groups",
    "shared_hidden": "shared_d_ff",
    "local_attention": ("local_attention", ATTENTION),
    "global_attention": ("global_attention", ATTENTION),
    "media": ("media", MEDIA),
    "vision": ("vision", VISION),
    "audio": ("audio", AUDIO),
}
ROWS = {"members": "max_segments"}
TASK = {
    "rate": "weight",
    "drop": "prompt_dropout",
    "candidates": (
        "candidates",
        {"shared_negatives": "cross_query_hard_negatives", "both_directions": "symmetric"},
    ),
    "packing": ("packing", {"query": ("query", ROWS), "target": ("target", ROWS)}),
}
INPUT_SPEC = {"media": ("media", MEDIA), "widths": "matryoshka_dims"}
# Of the audio tower's parameters, which stand under audio/, in late fusion under words/audio/ and media/audio/.
AUDIO_PARAMS = {
    "halve_0": "subsample_0",
    "halve_1": "subsample_1",
    "widen": "out_proj",
    "layers/start": "layers/ffn_start",
    "layers/end": "layers/ffn_end",
    "layers/convolution/begin": "layers/convolution/pw_in",
    "layers/convolution/finish": "layers/convolution/pw_out",
    "layers/attention/fine": "layers/attention/per_dim_scale",
}


def migrate(old: storage.Path, new: storage.Path) -> None:
    """Convert a run, a soup, or one `checkpoints/STEP` of either into the folder `new`; `old` stays as it is.

    A checkpoint is held in host memory. Raises CheckpointError where there is none, or none of version 0.1, and where
    `new` has checkpoints already.
    """
    old, new = storage.path(old), storage.path(new)
    run, last = checkpoint.locate(old)
    steps = checkpoint.saved_steps(run) if run == old else [last]
    if checkpoint.saved_steps(new):
        raise checkpoint.CheckpointError(f"{new} has checkpoints already; give another folder")
    new.mkdir(parents=True, exist_ok=True)
    with hosts.lock_folder(new), checkpoint.checkpointer(new, every=1, keep=len(steps)) as saver:
        Tokenizer.load(run / "tokenizer.json").save(new / "tokenizer.json")
        for step in steps:
            folder = checkpoint.orbax_path(run / "checkpoints" / str(step))
            metadata = dict(ocp.metadata(folder).custom_metadata or {})
            if not is_version_0_1(metadata):
                raise checkpoint.CheckpointError(f"{folder} needs no migration")
            state = migrate_state(_read(folder))
            saver.save(step, state, custom_metadata=migrate_metadata(metadata, state), force=True, overwrite=True)
            log.info("%s: step %d migrated", new, step)
    _copy_metrics(run, new)


def migrate_metadata(old: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of a checkpoint under today's names; `state` is the migrated one."""
    new = dict(old)
    is_late_fusion = {"words", "media"} <= state["encoder"].keys()
    encoder = "embed.model.late_fusion:LateFusion" if is_late_fusion else "embed.model.encoder:Encoder"
    arch = from_json(Architecture, _rename(old["architecture"], ARCHITECTURE) | {"encoder": encoder})
    new["architecture"] = json.loads(json.dumps(dataclasses.asdict(arch)))  # newer fields have their defaults
    if "code_of_experiment" in old:
        new["program"] = {old["experiment"]: new.pop("code_of_experiment")}
    spec = {name: value for name, value in new.pop("contract").items() if name != "pooling"}
    new["input_spec"] = _rename(spec, INPUT_SPEC)
    if "tasks" in old:
        new["tasks"] = [{"split": Task.split} | _rename(task, TASK) for task in old["tasks"]]
    if "trained_parameters" in old:
        new["trained_parameters"] = {_rename_path(path): shape for path, shape in old["trained_parameters"].items()}
        new["loss_parameters"] = {path: list(shape) for path, shape in param_shapes(state["loss"]).items()}
    return new


def migrate_state(old: Mapping[str, Any]) -> dict[str, Any]:
    """Return {encoder} of {params}, or {step, encoder, loss, optimizer} of {step, params, opt}."""
    params = _split_loss(old["params"])
    if "opt" not in old:
        return {"encoder": params["encoder"]}
    return {"step": old["step"], **params, "optimizer": _migrate_optimizer(old["opt"], old["params"].keys())}


def _migrate_optimizer(old: Any, names: Any) -> Any:
    """Every tree of parameters, known by the names at its top, becomes one of the encoder's and the loss's."""
    if isinstance(old, dict):
        if old and old.keys() <= set(names):
            return _split_loss(old)
        return {name: _migrate_optimizer(value, names) for name, value in old.items()}
    if isinstance(old, list | tuple):
        return [_migrate_optimizer(value, names) for value in old]
    return old


def _split_loss(params: Mapping[str, Any]) -> dict[str, Any]:
    encoder = {name: value for name, value in params.items() if name != "temperature"}
    flat = {tuple(_rename_path("/".join(path)).split("/")): leaf for path, leaf in flatten_dict(encoder).items()}
    return {"encoder": unflatten_dict(flat), "loss": dict(params.get("temperature", {}))}


def _rename_path(path: str) -> str:
    """Rename a parameter's path, "audio/halve_0/kernel"."""
    match = re.fullmatch(r"(?P<tower>(words/|media/)?audio/)(?P<rest>.*)", path)
    if match is None:
        return path
    for old, new in AUDIO_PARAMS.items():
        if f"{match['rest']}/".startswith(f"{old}/"):
            return match["tower"] + new + match["rest"].removeprefix(old)
    return path


def _rename(value: Any, names: Mapping[str, Any]) -> Any:
    """Rename the fields of plain JSON: names maps an old name to a new one, or to (new name, names of its fields)."""
    if value is None:
        return None
    renamed = {}
    for old, field in value.items():
        new = names.get(old, old)
        name, fields = new if isinstance(new, tuple) else (new, {})
        renamed[name] = _rename(field, fields) if fields else field
    return renamed


def _read(folder: str) -> dict[str, Any]:
    """Read the whole state of a checkpoint as host numpy arrays."""
    saved = ocp.metadata(folder, checkpointable_name="state").metadata
    target = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), saved)
    return jax.tree.map(np.asarray, ocp.load(folder, target, checkpointable_name="state"))


def _copy_metrics(run: storage.Path, new: storage.Path) -> None:
    if (run / "started.txt").exists():
        (new / "started.txt").write_text((run / "started.txt").read_text())
    if (run / "metrics.jsonl").exists():
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if line.endswith("}")]
        renamed = [_rename(row, {"useful": "productive_seconds"}) for row in rows]
        (new / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in renamed))
