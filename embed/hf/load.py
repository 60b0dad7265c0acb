"""A model's folder -> our parameters: safetensors straight onto any mesh, one leaf in host memory at a time."""

import contextlib
import logging
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from einops import EinopsError, rearrange
from safetensors import SafetensorError, safe_open

from embed import checkpoint, mesh, storage
from embed.data.layout import Layout
from embed.data.tokenizer import Tokenizer
from embed.hf.config import HubError, architecture, is_embedder
from embed.hf.tensors import DENSE, Theirs, theirs
from embed.model.encoder import Encoder, init_projection
from embed.model.presets import Architecture

log = logging.getLogger(__name__)
VISION = ("vision_tower.", "vision_embedder.", "embed_vision.")
AUDIO = ("audio_tower.", "embed_audio.")


def layout(folder: str | os.PathLike) -> Layout:
    """How inputs of a model's folder are made: its tokenizer.json and its numbers for media."""
    return Layout(Tokenizer.load(pathlib.Path(folder) / "tokenizer.json"), architecture(folder).media)


def load(folder: str | os.PathLike, like: dict[str, Any] | None = None, seed: int = 0) -> dict[str, Any]:
    """Parameters of `Encoder(architecture(folder))`, laid out and typed as `like`, else f32 on the present mesh.

    The projection of a model that has none is made from `seed`, and what the model has beyond an encoder is left out;
    both are said. Raises HubError naming every tensor that is missing, misshapen or unexpected, OSError where a file is
    missing.
    """
    folder, arch = pathlib.Path(folder), architecture(folder)
    like = checkpoint.shapes(Encoder(arch)) if like is None else like
    reader = Reader(folder, arch)
    new = []

    def leaf(path: tuple, wanted: jax.ShapeDtypeStruct) -> jax.Array:
        name = tuple(part.key for part in path)
        place = theirs(name, arch, is_embedder(arch))
        if str(place.names) == DENSE and DENSE not in reader.files:
            new.append("/".join(name))
            return init_projection(arch, jax.random.key(seed)).astype(wanted.dtype)
        value = reader.read(place, wanted.shape, wanted.dtype)
        return jax.make_array_from_callback(wanted.shape, wanted.sharding, lambda index: value[index])

    # The largest first, while there is most room for a leaf in host memory beside what is done.
    leaves, tree = jax.tree_util.tree_flatten_with_path(like)
    made = {i: leaf(*leaves[i]) for i in sorted(range(len(leaves)), key=lambda i: -leaves[i][1].size)}
    params = jax.tree.unflatten(tree, [made[i] for i in range(len(leaves))])
    dropped = reader.finish()
    log.info("%s: new: %s; left out: %s", folder, ", ".join(new) or "nothing", ", ".join(dropped) or "nothing")
    return params


def to_checkpoint(folder: str | os.PathLike, run: str | os.PathLike) -> None:
    """A model's folder as a checkpoint of ours, which everything here takes: training, soup, evaluation, Embedder.

    Raises what `load` does.
    """
    arch, of = architecture(folder), layout(folder)
    with jax.set_mesh(mesh.make_mesh((1, -1, 1))):
        params = load(folder)
        checkpoint.save_params(storage.path(run), params, checkpoint.describe(arch, of, init=folder), of.tokenizer)


class Reader:
    """The tensors of a folder by their names in the multimodal class, and which of them were asked for."""

    def __init__(self, folder: pathlib.Path, arch: Architecture):
        self.folder, self.arch = folder, arch
        self.files = _index(folder)
        self.unread = set(self.files)
        self.wrong: list[str] = []

    def read(self, place: Theirs, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """One of our leaves, zeros where something is missing or misshapen: that is noted for `finish`."""
        if not place.names.ndim:  # without a copy, since the largest tables are such
            return self._one(str(place.names), place.axes, shape).astype(dtype, copy=False)
        value = np.zeros(shape, dtype)
        for index, name in np.ndenumerate(place.names):
            value[index] = self._one(name, place.axes, shape[place.names.ndim :])
        return value

    def _one(self, name: str, axes: str, shape: tuple[int, ...]) -> np.ndarray:
        if name not in self.files:
            self.wrong.append(f"{name} is missing")
            return np.zeros(shape)
        self.unread.discard(name)
        tensor = _tensor(*self.files[name])
        try:
            return rearrange(tensor, axes, **dict(zip(axes.split("->")[1].split(), shape, strict=True)))
        except EinopsError:
            self.wrong.append(f"{name} is {list(tensor.shape)}, which does not make {list(shape)}")
            return np.zeros(shape)

    def finish(self) -> list[str]:
        """What was left out, in short. Raises HubError where a tensor was wrong, or is there and nobody knows it."""
        media = self.arch.media
        unused = ("lm_head.", *self._shared(), *(() if media.patch else VISION), *(() if media.audio_frame else AUDIO))
        dropped = {name for name in self.unread if name.startswith(unused)}
        self.wrong += [f"{name} is not known" for name in sorted(self.unread - dropped)]
        if self.wrong:
            raise HubError(f"{self.folder} does not hold this architecture: {'; '.join(self.wrong)}")
        return sorted({name.split(".")[0] if name.startswith(VISION + AUDIO) else name for name in dropped})

    def _shared(self) -> list[str]:
        """Prefixes of keys and values that a layer which uses another's may still have in the file."""
        first = self.arch.layers - self.arch.shared_groups * (self.arch.locals + 1)
        kinds = ("k_proj", "v_proj", "k_norm", "v_norm")
        return [
            f"language_model.layers.{i}.self_attn.{kind}." for i in range(first, self.arch.layers) for kind in kinds
        ]


def _index(folder: pathlib.Path) -> dict[str, tuple[pathlib.Path, str]]:
    """Name in the multimodal class -> (file, name there)."""
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise HubError(f"no .safetensors file in {folder}")
    found: dict[str, tuple[pathlib.Path, str]] = {}
    for shard in shards:
        with _opened(shard) as file:
            names = list(file.keys())
        found |= {name: (shard, name) for name in names}
    start = next((name for name in found if name.endswith("embed_tokens.weight")), "").removesuffix(
        "embed_tokens.weight"
    )
    # "" in a text model alone, "language_model." in the multimodal one, "model.language_model." with a head on it
    root = start.removesuffix("language_model.")
    text = "" if start else "language_model."
    named = {text + name.removeprefix(root): place for name, place in found.items()}
    dense = folder / "2_Dense" / "model.safetensors"
    return named | ({DENSE: (dense, "linear.weight")} if dense.exists() else {})


def _tensor(path: pathlib.Path, name: str) -> np.ndarray:
    with _opened(path) as file:
        return file.get_tensor(name)


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except SafetensorError as error:
        raise HubError(f"{path} is not a whole safetensors file: {error}") from error
