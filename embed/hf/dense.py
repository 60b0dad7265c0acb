"""The Dense modules of a sentence-transformers folder: the linear maps after the pooling, composed into one projection.

EmbeddingGemma has two, 768 -> 3072 -> 768, without a bias or an activation between them: together one linear map.
"""

import functools
import pathlib

import numpy as np

from embed.hf.fields import HubError, Kinds, read_json
from embed.hf.weights import open_tensors, read_tensor

WEIGHT = "linear.weight"
MAX_MODULES = 20
KINDS: Kinds = {
    "out_features": ("a number of 1 or more", lambda x: type(x) is int and 1 <= x < 2**31),
    "bias": ("true or false", lambda x: isinstance(x, bool)),
    "activation_function": ("a string", lambda x: isinstance(x, str)),
}


def find_dense(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folders of the Dense modules, in the order that they apply: 2_Dense, 3_Dense and so on."""
    numbered = [folder / f"{number}_Dense" for number in range(1, MAX_MODULES)]
    return [module for module in numbered if (module / "model.safetensors").exists()]


def read_output_dim(folder: pathlib.Path) -> int | None:
    """The dimensions of what the last Dense module gives; None without one. Raises HubError as `read_projection`."""
    modules = find_dense(folder)
    for module in modules:
        _check_linear(module)
    return read_json(modules[-1] / "config.json", KINDS)["out_features"] if modules else None


def read_projection(modules: list[pathlib.Path]) -> np.ndarray:
    """Read the product of the modules' maps f32[e,d]; of one module, its weight bit for bit.

    Raises HubError for a module with a bias or an activation, which is no linear map.
    """
    for module in modules:
        _check_linear(module)
    maps = [read_tensor(module / "model.safetensors", WEIGHT) for module in modules]
    if len(maps) == 1:
        return maps[0]
    try:
        product = functools.reduce(
            lambda product, weight: weight @ product, [weight.astype(np.float64) for weight in maps]
        )
    except ValueError as error:
        shapes = ", ".join(str(list(weight.shape)) for weight in maps)
        raise HubError(f"{modules[0].parent}: the Dense modules {shapes} do not follow one another") from error
    return product.astype(np.float32)


def _check_linear(module: pathlib.Path) -> None:
    config = read_json(module / "config.json", KINDS)
    activation = config.get("activation_function", "Identity").rpartition(".")[2]
    with open_tensors(module / "model.safetensors") as file:
        names = sorted(file.keys())
    if activation != "Identity" or names != [WEIGHT]:
        raise HubError(
            f"{module}: activation {activation} and tensors {', '.join(names)}; only a plain {WEIGHT} is known"
        )
