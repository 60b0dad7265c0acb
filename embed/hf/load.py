"""A model's folder -> our parameters: safetensors straight onto any mesh, one leaf in host memory at a time."""

import logging
import os
import pathlib
from typing import Any

import jax
import numpy as np
from einops import EinopsError, rearrange

from embed.data.preprocess import Preprocessor
from embed.hf.config import is_embedder, read_architecture
from embed.hf.fields import HubError, check_downloaded
from embed.hf.tensors import BOUNDS, DENSE, HFTensor, hf_tensor
from embed.hf.weights import Tensors, find_tensors, read_tensor
from embed.model.build import build
from embed.model.config import Architecture
from embed.model.encoder import init_projection
from embed.model.params import param_structs

log = logging.getLogger(__name__)
VISION = ("vision_tower.", "vision_embedder.", "embed_vision.")
AUDIO = ("audio_tower.", "embed_audio.")
LISTED = 50  # wrong tensors that an error names


def load_preprocessor(folder: str | os.PathLike) -> Preprocessor:
    """How inputs of a model's folder are made: its tokenizer.json and its numbers for media.

    Raises HubError for a tokenizer that is not whole or not of this model, OSError where there is none.
    """
    path = pathlib.Path(folder) / "tokenizer.json"
    check_downloaded(path)
    arch = read_architecture(folder)
    try:
        return Preprocessor.load(path, arch)
    except ValueError as error:
        raise HubError(str(error)) from error


def load(folder: str | os.PathLike, like: dict[str, Any] | None = None, seed: int = 0) -> dict[str, Any]:
    """Parameters of `build(architecture(folder))`, laid out and typed as `like`, else f32 on the present mesh.

    The projection of a model that has none is made from `seed`, and what the model has beyond an encoder is left out;
    both are said. Raises HubError naming the tensors that are missing, misshapen or unexpected, or the first that is
    quantized or not finite, OSError where a file is missing.
    """
    folder, arch = pathlib.Path(folder), read_architecture(folder)
    like = param_structs(build(arch)) if like is None else like
    reader = Reader(folder, arch)
    new = []

    def leaf(path: tuple, wanted: jax.ShapeDtypeStruct) -> jax.Array:
        name = tuple(part.key for part in path)
        place = hf_tensor(name, arch, is_embedder(arch))
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


class Reader:
    """The tensors of a folder by their names in the multimodal class, and which of them were asked for."""

    def __init__(self, folder: pathlib.Path, arch: Architecture):
        self.folder, self.arch = folder, arch
        self.files = _name_tensors(folder)
        self.unread = set(self.files)
        self.wrong: list[str] = []

    def read(self, place: HFTensor, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """One of our leaves, zeros where something is missing or misshapen: that is noted for `finish`."""
        if not place.names.ndim:  # without a copy, since the largest tables are such
            return self._one(str(place.names), place.axes, shape, dtype)
        value = np.zeros(shape, dtype)
        for index, name in np.ndenumerate(place.names):
            value[index] = self._one(name, place.axes, shape[place.names.ndim :], dtype)
        return value

    def _one(self, name: str, axes: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        if name not in self.files:
            self.wrong.append(f"{name} is missing")
            return np.zeros(shape, dtype)
        self.unread.discard(name)
        tensor = read_tensor(*self.files[name])
        with np.errstate(over="ignore"):  # what overflows is refused below
            value = tensor.astype(dtype, copy=False)
        usable = ~np.isnan(value) if name.endswith(BOUNDS) else np.isfinite(value)  # an open bound is infinite
        if not usable.all():
            path, inside = self.files[name]
            count = value.size - np.count_nonzero(usable)
            raise HubError(
                f"{path}: {inside} holds NaN or infinity in {count:,} of {value.size:,} numbers, read as "
                f"{np.dtype(dtype)}: it overflowed, or was not saved whole"
            )
        try:
            return rearrange(value, axes, **dict(zip(axes.split("->")[1].split(), shape, strict=True)))
        except EinopsError:
            self.wrong.append(f"{name} is {list(tensor.shape)}, which does not make {list(shape)}")
            return np.zeros(shape, dtype)

    def finish(self) -> list[str]:
        """What was left out, in short. Raises HubError where a tensor was wrong, or is there and nobody knows it."""
        media = self.arch.media
        unused = (
            "lm_head.",
            *self._shared(),
            *(() if media.patch_size else VISION),
            *(() if media.audio_frame_size else AUDIO),
        )
        dropped = {name for name in self.unread if name.startswith(unused)}
        self.wrong += [f"{name} is not known" for name in sorted(self.unread - dropped)]
        if self.wrong:
            more = f"; and {len(self.wrong) - LISTED} more" if len(self.wrong) > LISTED else ""
            listed = "; ".join(self.wrong[:LISTED])
            raise HubError(f"{self.folder} does not hold this architecture: {listed}{more}")
        return sorted({name.split(".")[0] if name.startswith(VISION + AUDIO) else name for name in dropped})

    def _shared(self) -> list[str]:
        """Prefixes of keys and values that a layer which uses another's may still have in the file."""
        first = self.arch.num_layers - self.arch.shared_kv_groups * (self.arch.local_per_group + 1)
        kinds = ("k_proj", "v_proj", "k_norm", "v_norm")
        return [
            f"language_model.layers.{i}.self_attn.{kind}." for i in range(first, self.arch.num_layers) for kind in kinds
        ]


def _name_tensors(folder: pathlib.Path) -> Tensors:
    """The tensors of a folder by their names in the multimodal class."""
    tensors = find_tensors(folder)
    start = next((name for name in tensors if name.endswith("embed_tokens.weight")), "")
    start = start.removesuffix("embed_tokens.weight")
    # "" in a text model alone, "language_model." in the multimodal one, "model.language_model." with a head on it
    root = start.removesuffix("language_model.")
    text = "" if start else "language_model."
    named = {text + name.removeprefix(root): place for name, place in tensors.items()}
    dense = folder / "2_Dense" / "model.safetensors"
    return named | ({DENSE: (dense, "linear.weight")} if dense.exists() else {})
