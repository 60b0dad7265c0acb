"""A model's folder -> parameters: from safetensors onto any mesh, one leaf in host memory at a time."""

import logging
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from einops import EinopsError, rearrange
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.typing import DTypeLike

from embed.data.preprocess import Preprocessor
from embed.hf.config import is_embedder, read_architecture
from embed.hf.dense import WEIGHT, find_dense, read_projection
from embed.hf.fields import HubError, check_downloaded
from embed.hf.tensors import BOUNDS, DENSE, MEDIA, HFTensor, hf_tensor
from embed.hf.weights import Tensors, find_tensors, read_names, read_tensor
from embed.model.build import EncoderModule, build
from embed.model.config import Architecture
from embed.model.encoder import init_leaves
from embed.model.params import Path, param_structs

log = logging.getLogger(__name__)
VISION = ("vision_tower.", "vision_embedder.", "embed_vision.")
AUDIO = ("audio_tower.", "embed_audio.")
MAX_LISTED = 50  # wrong tensors that an error names


def load_preprocessor(folder: str | os.PathLike) -> Preprocessor:
    """Read the preprocessor of a model's folder: its tokenizer.json and its media format.

    Raises HubError for a tokenizer that is corrupt or of another model, OSError where there is none.
    """
    path = pathlib.Path(folder) / "tokenizer.json"
    check_downloaded(path)
    arch = read_architecture(folder)
    try:
        return Preprocessor.load(path, arch)
    except ValueError as error:
        raise HubError(str(error)) from error


def load(
    folder: str | os.PathLike,
    encoder: EncoderModule | None = None,
    *,
    dtype: DTypeLike = np.float32,
    seed: int = 0,
) -> dict[str, Any]:
    """Load a model's folder as the parameters of `encoder`, else of the encoder it describes, on the current mesh.

    A projection that the model lacks, and the maps of images and audio that a text model lacks, are initialized from
    `seed`; tensors that are not an encoder's are skipped; the log names both. Raises HubError naming the tensors that
    are missing, misshapen or unknown, the first that is quantized or not finite, or a parameter of `encoder` that no
    published model has; OSError where a file is missing.
    """
    folder = pathlib.Path(folder)
    arch = read_architecture(folder)
    encoder = encoder or build(arch)
    reader = Reader(folder, arch)
    structs: dict[Path, jax.ShapeDtypeStruct] = flatten_dict(param_structs(encoder))
    tensors = _match_tensors(folder, arch, structs)
    new = tuple(path for path, tensor in tensors.items() if reader.lacks(tensor))

    def load_leaf(path: Path) -> jax.Array:
        struct = structs[path]
        value = reader.read(tensors[path], struct.shape, dtype)
        return jax.make_array_from_callback(struct.shape, struct.sharding, lambda index: value[index])

    # The largest leaf first, while host memory holds the fewest others.
    by_size = sorted(structs.keys() - set(new), key=lambda path: (-structs[path].size, path))
    params = {path: load_leaf(path) for path in by_size}
    skipped = reader.check_unused()
    if new:
        leaves = init_leaves(encoder, new, jax.random.key(seed))
        params |= {path: leaf.astype(dtype) for path, leaf in zip(new, leaves, strict=True)}
    names = ", ".join("/".join(path) for path in new) or "nothing", ", ".join(skipped) or "nothing"
    log.info("%s: new: %s; left out: %s", folder, *names)
    return unflatten_dict(params)


def find_new(folder: str | os.PathLike, arch: Architecture) -> list[str]:
    """Return the parameters that a model's folder lacks, as "projection/weight", which `load` initializes.

    Needs a mesh. Raises HubError and OSError as `load` does.
    """
    folder = pathlib.Path(folder)
    reader = Reader(folder, arch)
    tensors = _match_tensors(folder, arch, flatten_dict(param_structs(build(arch))))
    return sorted("/".join(path) for path, tensor in tensors.items() if reader.lacks(tensor))


def _match_tensors(folder: pathlib.Path, arch: Architecture, paths: Iterable[Path]) -> dict[Path, HFTensor]:
    """The tensor of each of the encoder's parameters. Raises HubError for one that no published model has."""
    tensors: dict[Path, HFTensor] = {}
    for path in paths:
        try:
            tensors[path] = hf_tensor(path, arch, is_embedder(arch))
        except KeyError as error:
            raise HubError(f"{folder}: no published model has the encoder's parameter {'/'.join(path)}") from error
    return tensors


class Reader:
    """The tensors of a folder by their names in the multimodal class; it keeps track of those not read yet."""

    def __init__(self, folder: pathlib.Path, arch: Architecture):
        self.folder, self.arch = folder, arch
        self.files = _name_tensors(folder)
        self.unread = set(self.files)
        self.wrong: list[str] = []

    def lacks(self, tensor: HFTensor) -> bool:
        """Whether it is a tensor beside those of the model's class, and the folder does not have it."""
        name = str(tensor.names)
        return name.startswith((DENSE, MEDIA)) and name not in self.files

    def read(self, tensor: HFTensor, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        """Read one leaf, zeros where a tensor is missing or misshapen, which `check_unused` reports."""
        if not tensor.names.ndim:  # without a copy, since the largest tables are such
            return self._read_tensor(str(tensor.names), tensor, shape, dtype)
        value = np.zeros(shape, dtype)
        for index, name in np.ndenumerate(tensor.names):
            value[index] = self._read_tensor(name, tensor, shape[tensor.names.ndim :], dtype)
        return value

    def _read_tensor(self, name: str, hf_layout: HFTensor, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        if name not in self.files:
            self.wrong.append(f"{name} is missing")
            return np.zeros(shape, dtype)
        self.unread.discard(name)
        tensor = read_projection(find_dense(self.folder)) if name == DENSE else read_tensor(*self.files[name])
        with np.errstate(over="ignore"):  # overflow is refused below
            value = tensor.astype(dtype, copy=False)
        usable = ~np.isnan(value) if name.endswith(BOUNDS) else np.isfinite(value)  # bounds may be infinite
        if not usable.all():
            path, inside = self.files[name]
            count = value.size - np.count_nonzero(usable)
            raise HubError(
                f"{path}: {inside} holds NaN or infinity in {count:,} of {value.size:,} values, read as "
                f"{np.dtype(dtype)}: it overflowed, or the file is corrupt"
            )
        axes = hf_layout.axes
        try:
            value = rearrange(value, axes, **dict(zip(axes.split("->")[1].split(), shape, strict=True)))
            return value + np.asarray(hf_layout.offset, dtype) if hf_layout.offset else value
        except EinopsError:
            self.wrong.append(f"{name} is {list(tensor.shape)}, which does not make {list(shape)}")
            return np.zeros(shape, dtype)

    def check_unused(self) -> list[str]:
        """The names of skipped tensors, abridged. Raises HubError where a tensor was wrong or is unknown."""
        media = self.arch.media
        unused = (
            "lm_head.",
            *self._shared_kv(),
            *(() if media.patch_size else VISION),
            *(() if media.audio_frame_size else AUDIO),
        )
        skipped = {name for name in self.unread if name.startswith(unused)}
        self.wrong += [f"{name} is not known" for name in sorted(self.unread - skipped)]
        if self.wrong:
            more = f"; and {len(self.wrong) - MAX_LISTED} more" if len(self.wrong) > MAX_LISTED else ""
            listed = "; ".join(self.wrong[:MAX_LISTED])
            raise HubError(f"{self.folder} does not hold this architecture: {listed}{more}")
        return sorted({name.split(".")[0] if name.startswith(VISION + AUDIO) else name for name in skipped})

    def _shared_kv(self) -> list[str]:
        """Prefixes of key and value tensors that a file may have for layers which share another layer's."""
        first = self.arch.num_layers - self.arch.shared_kv_groups * (self.arch.local_per_group + 1)
        modules = ("k_proj", "v_proj", "k_norm", "v_norm")
        return [
            f"language_model.layers.{i}.self_attn.{module}."
            for i in range(first, self.arch.num_layers)
            for module in modules
        ]


def _name_tensors(folder: pathlib.Path) -> Tensors:
    """The tensors of a folder by their names in the multimodal class."""
    tensors = find_tensors(folder)
    table = next((name for name in tensors if name.endswith("embed_tokens.weight")), "")
    root = table.removesuffix("embed_tokens.weight").removesuffix("language_model.")
    # The table is "" of a text model alone, "model." of one with a head, "language_model." in the multimodal class,
    # and "model.language_model." of that with a head.
    text = "" if "language_model." in table else "language_model."
    named = {
        text + name.removeprefix(root) if name.startswith(root) else name: place for name, place in tensors.items()
    }
    if modules := find_dense(folder):
        named[DENSE] = (modules[0] / "model.safetensors", WEIGHT)
    media = folder / "media" / "model.safetensors"
    return named | ({MEDIA + name: (media, name) for name in read_names(media)} if media.exists() else {})
