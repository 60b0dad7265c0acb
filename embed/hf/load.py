"""A model's folder -> parameters: from safetensors onto any mesh, one leaf in host memory at a time."""

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


def load(folder: str | os.PathLike, target: dict[str, Any] | None = None, seed: int = 0) -> dict[str, Any]:
    """Load the parameters of a model's folder: sharded and typed as `target`, else f32 on the current mesh.

    A projection that the model lacks is initialized from `seed`, and tensors that are not an encoder's are skipped; the
    log names both. Raises HubError naming the tensors that are missing, misshapen or unknown, the first that is
    quantized or not finite, or a parameter of `target` that no published model has; OSError where a file is missing.
    """
    folder = pathlib.Path(folder)
    arch = read_architecture(folder)
    target = param_structs(build(arch)) if target is None else target
    reader = Reader(folder, arch)
    initialized = []

    def load_leaf(path: tuple, struct: jax.ShapeDtypeStruct) -> jax.Array:
        name = tuple(part.key for part in path)
        try:
            tensor = hf_tensor(name, arch, is_embedder(arch))
        except KeyError as error:
            raise HubError(f"{folder}: no published model has the encoder's parameter {'/'.join(name)}") from error
        if str(tensor.names) == DENSE and DENSE not in reader.files:
            initialized.append("/".join(name))
            return init_projection(arch, jax.random.key(seed)).astype(struct.dtype)
        value = reader.read(tensor, struct.shape, struct.dtype)
        return jax.make_array_from_callback(struct.shape, struct.sharding, lambda index: value[index])

    # The largest leaf first, while host memory holds the fewest others.
    leaves, tree = jax.tree_util.tree_flatten_with_path(target)
    by_size = sorted(range(len(leaves)), key=lambda i: -leaves[i][1].size)
    loaded = {i: load_leaf(*leaves[i]) for i in by_size}
    params = jax.tree.unflatten(tree, [loaded[i] for i in range(len(leaves))])
    skipped = reader.check_unused()
    names = ", ".join(initialized) or "nothing", ", ".join(skipped) or "nothing"
    log.info("%s: new: %s; left out: %s", folder, *names)
    return params


class Reader:
    """The tensors of a folder by their names in the multimodal class; it keeps track of those not read yet."""

    def __init__(self, folder: pathlib.Path, arch: Architecture):
        self.folder, self.arch = folder, arch
        self.files = _name_tensors(folder)
        self.unread = set(self.files)
        self.wrong: list[str] = []

    def read(self, tensor: HFTensor, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Read one leaf, zeros where a tensor is missing or misshapen, which `check_unused` reports."""
        if not tensor.names.ndim:  # without a copy, since the largest tables are such
            return self._read_tensor(str(tensor.names), tensor.axes, shape, dtype)
        value = np.zeros(shape, dtype)
        for index, name in np.ndenumerate(tensor.names):
            value[index] = self._read_tensor(name, tensor.axes, shape[tensor.names.ndim :], dtype)
        return value

    def _read_tensor(self, name: str, axes: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        if name not in self.files:
            self.wrong.append(f"{name} is missing")
            return np.zeros(shape, dtype)
        self.unread.discard(name)
        tensor = read_tensor(*self.files[name])
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
        try:
            return rearrange(value, axes, **dict(zip(axes.split("->")[1].split(), shape, strict=True)))
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
    start = next((name for name in tensors if name.endswith("embed_tokens.weight")), "")
    start = start.removesuffix("embed_tokens.weight")
    # "" in a text model alone, "language_model." in the multimodal one, "model.language_model." with a head on it
    root = start.removesuffix("language_model.")
    text = "" if start else "language_model."
    named = {text + name.removeprefix(root): place for name, place in tensors.items()}
    dense = folder / "2_Dense" / "model.safetensors"
    return named | ({DENSE: (dense, "linear.weight")} if dense.exists() else {})
