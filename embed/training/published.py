"""Checkpoints from and to published models: folders of the Hugging Face layout, see embed/hf."""

import os
import pathlib

import jax

from embed import hf
from embed.distributed import mesh, storage
from embed.hf.export import export
from embed.training.metadata import load_preprocessor, metadata_for, read_architecture, read_metadata
from embed.training.weights import load_params, save_params


def import_checkpoint(name: str | os.PathLike, run: str | os.PathLike, attention: str | None = None) -> None:
    """Write a published model as a checkpoint, to train, average, evaluate and embed with.

    `name` is a folder, a GGUF file, or "owner/model@COMMIT" of the Hugging Face hub. `attention` "bidirectional" or
    "causal" overrides what `hf.read_architecture` reads. Raises as `hf.open_model` and `hf.load` do.
    """
    with hf.open_model(name) as folder:
        arch = hf.read_architecture(folder, attention)
        preprocessor = hf.load_preprocessor(folder)
        with jax.set_mesh(mesh.make_mesh((1, -1, 1))):
            params = hf.load(folder)
            metadata = metadata_for(arch, preprocessor, init=name, new=hf.find_new(folder, arch))
            save_params(storage.path(run), params, metadata, preprocessor.tokenizer)


def export_checkpoint(path: str | os.PathLike, folder: str | os.PathLike, dtype: str = "float32") -> None:
    """Write a run or soup as a folder of the Hugging Face layout, in float32 (every bit kept) or bfloat16.

    Raises CheckpointError where there is no checkpoint, else as `embed.hf.export.export` does.
    """
    path = storage.path(path)
    metadata = read_metadata(path)
    export(
        pathlib.Path(folder),
        read_architecture(metadata),
        load_preprocessor(path).tokenizer,
        lambda: load_params(path),
        dtype=dtype,
        name=os.path.basename(storage.absolute(path)),
        metadata=metadata,
    )
