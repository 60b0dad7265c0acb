"""A model -> a folder that transformers and sentence-transformers load as it is.

An EmbeddingGemma 2 becomes that class, with its projection inside; the other models become their own class, and the
projection a module after the pooling. What transformers' text class of Gemma 3 lacks, the maps of images and audio, is
kept in media/ for embed alone.
"""

import dataclasses
import json
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
from einops import rearrange
from flax.traverse_util import flatten_dict
from safetensors import SafetensorError
from safetensors.numpy import save_file

from embed.data.tokenizer import Tokenizer
from embed.hf.card import model_card
from embed.hf.config import is_embedder
from embed.hf.dense import WEIGHT
from embed.hf.export_json import documents
from embed.hf.gemma3 import is_gemma3
from embed.hf.tensors import DENSE, MEDIA, TEXT_PART, HFTensor, hf_tensor
from embed.model.config import Architecture

SHARD = 2 * 10**9  # bytes of a file of weights
# In the order the parts came, as we train; the processor puts soft tokens where the placeholders are.
TEMPLATE = (
    "{%- for message in messages -%}{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}"
    "{%- for part in message['content'] -%}{%- if part['type'] == 'text' -%}{{ part['text'] }}{%- else -%}"
    "{{ '<|' ~ part['type'] ~ '|>' }}{%- endif -%}{%- endfor -%}{%- endif -%}{%- endfor -%}"
)


def export(
    folder: str | os.PathLike,
    arch: Architecture,
    tokenizer: Tokenizer,
    load_params: Callable[[], dict],
    *,
    dtype: str = "float32",
    name: str = "",
    metadata: dict[str, Any] | None = None,
) -> None:
    """Write a model in the Hugging Face layout: weights, tokenizer, processors, pooling, and a model card.

    `load_params` returns the parameters as numpy arrays; it is called when all else is written. `dtype` float32 keeps
    every bit, bfloat16 halves the size. `name` and `metadata` (a checkpoint's) go into the card and embed.json. The
    folder appears when all of it is written; until then it grows in NAME.partial-... beside it, which only a killed
    process leaves behind. Raises HubError for an architecture that the layout cannot express, FileExistsError where
    `folder` has files in it, OSError where it cannot be written.
    """
    folder = pathlib.Path(folder).resolve()
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; give a new folder")
    metadata = metadata or {}
    files = documents(arch, tokenizer)
    files["embed.json"] = {
        "matryoshka_dims": arch.matryoshka_dims,
        "pooling": arch.pooling,
        "attention": arch.attention,
        "media": dataclasses.asdict(arch.media),
        "about": metadata,
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        folder.rmdir()  # now, not when all is written: it may be one that cannot be replaced
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.partial-", dir=folder.parent) as partial:
        new = pathlib.Path(partial, folder.name)  # not `partial` itself, which only its owner may read
        new.mkdir()
        for file, content in files.items():
            (new / file).parent.mkdir(exist_ok=True)
            (new / file).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        tokenizer.save(new / "tokenizer.json")
        if not is_gemma3(arch):
            (new / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
        (new / "README.md").write_text(model_card(arch, metadata, name or folder.name), encoding="utf-8")
        write_weights(load_params(), arch, new, np.dtype(dtype))
        new.rename(folder)


def write_weights(params: dict, arch: Architecture, folder: pathlib.Path, dtype: np.dtype) -> None:
    """Write every leaf as its tensors: safetensors files of at most 2 GB and an index, one file in memory at a time."""
    embedder = is_embedder(arch)
    leaves = [(value, hf_tensor(path, arch, embedder)) for path, value in flatten_dict(params).items()]
    prefix = TEXT_PART if is_gemma3(arch) else ""  # the text class alone names its tensors without it
    tensors = [
        (str(name).removeprefix(prefix), value, index, tensor)
        for value, tensor in leaves
        for index, name in np.ndenumerate(tensor.names)
    ]
    inside = [entry for entry in tensors if not entry[0].startswith((DENSE, MEDIA))]
    size = sum(np.size(value[index]) for _, value, index, _ in inside) * dtype.itemsize
    shards: list[list] = [[]]
    room = SHARD
    for entry in sorted(inside, key=lambda entry: entry[0]):
        bytes_ = np.size(entry[1][entry[2]]) * dtype.itemsize
        if shards[-1] and bytes_ > room:
            shards.append([])
            room = SHARD
        shards[-1].append(entry)
        room -= bytes_

    def to_stored(value: np.ndarray, index: tuple, tensor: HFTensor) -> np.ndarray:
        stored = rearrange(np.asarray(value[index]), tensor.inverse)
        return np.array(stored - tensor.offset if tensor.offset else stored, dtype, order="C")

    names: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        _save({n: to_stored(*rest) for n, *rest in shard}, folder / name)
        names |= {n: name for n, *_ in shard}
    if len(shards) > 1:
        listing = {"metadata": {"total_size": size}, "weight_map": names}
        (folder / "model.safetensors.index.json").write_text(json.dumps(listing, indent=2) + "\n")
    for n, *rest in tensors:
        if n == DENSE:
            _save({WEIGHT: to_stored(*rest)}, folder / "2_Dense" / "model.safetensors")
    media = {n.removeprefix(MEDIA): to_stored(*rest) for n, *rest in tensors if n.startswith(MEDIA)}
    if media:
        (folder / "media").mkdir()
        _save(media, folder / "media" / "model.safetensors")


def _save(tensors: dict[str, np.ndarray], file: pathlib.Path) -> None:
    file.touch()
    mode = file.stat().st_mode  # as the umask has it; save_file puts a file for its owner alone in its place
    try:
        save_file(tensors, file, {"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{file} cannot be written: {error}") from error
    file.chmod(mode)
