"""Make the encoder that an architecture names."""

import importlib
from collections.abc import Collection

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from embed.model.config import Architecture


def build(
    arch: Architecture,
    dtype: DTypeLike = jnp.float32,
    remat: bool = False,
    unroll: int = 1,
    *,
    trust: Collection[str] = (),
) -> nn.Module:
    """Make the encoder class that `arch.encoder` names ("module:Class"). Raises ValueError for a class outside `embed`
    that is not in `trust`; nothing is imported then."""
    module, _, name = arch.encoder.partition(":")
    if not module.startswith("embed.") and arch.encoder not in trust:
        raise ValueError(f"the encoder {arch.encoder!r} is not part of embed: trust it by name (--trust) to import it")
    return getattr(importlib.import_module(module), name)(arch, dtype, remat, unroll)
