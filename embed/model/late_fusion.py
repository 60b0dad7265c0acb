"""Late fusion: a tower for words, one for media, which meet in the vector alone. What one encoder is compared with."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax.typing import DTypeLike

from embed.batch import NUM_SPECIAL, PAD_ID, Inputs, is_media_token
from embed.model.config import Architecture
from embed.model.encoder import Encoder


class LateFusion(nn.Module):
    """Two encoders of one architecture with parameters of their own; an input's embedding is the sum of what is there.

    Fields and call are those of Encoder, so an experiment takes the one for the other. Sums are of unit vectors: words
    and media count alike, whatever their lengths.
    """

    arch: Architecture
    dtype: DTypeLike = jnp.float32
    remat: bool = True
    unroll: int = 1

    @nn.compact
    def __call__(self, inputs: Inputs) -> jax.Array:
        """As Encoder's: -> f32[b,s,e], zeros for an absent input."""
        media = is_media_token(inputs)
        fields = self.arch, self.dtype, self.remat, self.unroll
        nothing = {"patches": inputs.patches[:, :0], "patch_xy": inputs.patch_xy[:, :0]}
        nothing |= {"audio": inputs.audio[:, :0], "audio_mask": inputs.audio_mask[:, :0]}
        spoken = dataclasses.replace(mask_to(inputs, ~media), **nothing)
        words = l2_normalize(Encoder(*fields, name="words")(spoken))
        if not (inputs.patches.size or inputs.audio.size):
            return words
        seen = l2_normalize(Encoder(*fields, name="media")(mask_to(inputs, media)))
        return words * (count_tokens(inputs, ~media) > NUM_SPECIAL) + seen * (count_tokens(inputs, media) > 0)


def mask_to(inputs: Inputs, where: jax.Array) -> Inputs:
    """The inputs without the tokens that are not in bool[b,l]: the others move together, and padding follows."""
    kept = where & (inputs.segments > 0)
    blank = ((inputs.tokens, PAD_ID), (inputs.segments, 0), (inputs.soft_token_index, -1))
    rows = ~kept, *(jnp.where(kept, x, nothing) for x, nothing in blank)
    _, tokens, segments, soft_token_index = jax.lax.sort(rows, dimension=1, is_stable=True, num_keys=1)
    place = jnp.arange(kept.shape[1]).reshape(1, -1)
    starts = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    positions = place - jax.lax.cummax(jnp.where(starts, place, 0), axis=1)
    return dataclasses.replace(
        inputs, tokens=tokens, segments=segments, positions=positions, soft_token_index=soft_token_index
    )


def count_tokens(inputs: Inputs, where: jax.Array) -> jax.Array:
    """Tokens of each input that are in bool[b,l] -> i32[b,s,1]."""
    numbers = jnp.arange(1, inputs.max_segments + 1).reshape(1, 1, -1)
    own = rearrange(inputs.segments, "b l -> b l 1") == numbers
    return rearrange(jnp.sum(own & rearrange(where, "b l -> b l 1"), axis=1), "b s -> b s 1")


def l2_normalize(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-24))
