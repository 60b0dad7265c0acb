"""`build` makes the encoder that an architecture names: training, checkpoints, embedders, soups and export all call it.

A checkpoint carries the import path of its encoder's class, never code, and a path outside embed is followed only where
the caller trusts it.
"""

import importlib
import re
from collections.abc import Collection

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from embed.model.config import Architecture

IMPORT_PATH = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)", re.ASCII)


class EncoderModule(nn.Module):
    """An encoder: subclass it and define `__call__(inputs: Inputs)`, which returns embeddings f32[b,s,e] of the
    s = `inputs.max_segments` segments of each row, not normalized, zeros for an absent segment.

    `dtype` is the dtype of activations. `remat` recomputes cheap activations in the backward pass; `unroll` is how many
    steps of a scan over layers are written out.
    """

    arch: Architecture
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    unroll: int = 1


class EncoderError(ValueError):
    """The encoder that an architecture names cannot be used; the message says why and what to do."""


def build(
    arch: Architecture,
    dtype: DTypeLike = jnp.float32,
    remat: bool = False,
    unroll: int = 1,
    *,
    trust: Collection[str] = (),
) -> EncoderModule:
    """Make the encoder whose class `arch.encoder` names; the other arguments are its fields.

    `trust` holds the import paths ("module:Class") outside embed that may be followed. Raises EncoderError where
    `arch.encoder` is not an import path, not trusted, or not an encoder class.
    """
    return find_class(arch.encoder, trust)(arch, dtype, remat, unroll)


def find_class(path: str, trust: Collection[str] = ()) -> type[EncoderModule]:
    """Import the class "module:Class". Nothing is imported where the path is outside embed and not in `trust`.

    Raises EncoderError as `build` does.
    """
    match = IMPORT_PATH.fullmatch(path) if isinstance(path, str) else None
    if match is None:
        raise EncoderError(f"the encoder {path!r} is not an import path: expected module:Class")
    module_name, name = match["module"], match["name"]
    if module_name.partition(".")[0] != __name__.partition(".")[0] and path not in tuple(trust):
        raise EncoderError(
            f"the encoder {path} is code outside embed, and was not imported: if you trust it, name it in `trust`, "
            f'such as Embedder.load(..., trust=("{path}",)), --trust={path} or --config.trust={path}'
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise EncoderError(
            f"the encoder {path} cannot be imported: {error}; run from the folder that holds it, or set PYTHONPATH"
        ) from error
    encoder = getattr(module, name, None)
    if not isinstance(encoder, type) or not issubclass(encoder, EncoderModule) or encoder.__module__ != module_name:
        raise EncoderError(f"the encoder {path}: {module_name} defines no subclass of EncoderModule named {name}")
    if encoder is EncoderModule:
        raise EncoderError(f"the encoder {path} is abstract: name a subclass of it")
    return encoder


def check_encoder(encoder: EncoderModule) -> None:
    """Raise EncoderError where an encoder is not of the class that its architecture names.

    A checkpoint holds the architecture alone: another class would be loaded, and scored, in its place.
    """
    used = type(encoder)
    named = encoder.arch.encoder
    if named.rpartition(":")[2] != used.__qualname__ or used.__module__ not in (named.partition(":")[0], "__main__"):
        raise EncoderError(
            f"the encoder is {used.__module__}:{used.__qualname__}, but its architecture names {named}, which a "
            "checkpoint of it would load: set Architecture.encoder and make the encoder with embed.model.build.build"
        )
