"""Late fusion: one tower for text and one for media, which meet in the embedding alone. A baseline for one encoder."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from embed.batch import NUM_SPECIAL, PAD_ID, Inputs, is_media_token
from embed.model.build import EncoderModule
from embed.model.encoder import Encoder


class LateFusion(EncoderModule):
    """Two encoders of one architecture, each with its own parameters; an embedding is the sum of theirs.

    `Architecture.encoder` names it: "embed.model.late_fusion:LateFusion". The summands are unit vectors: text and media
    weigh the same, whatever their lengths.
    """

    @nn.compact
    def __call__(self, inputs: Inputs) -> jax.Array:
        """As `Encoder`: -> f32[b,s,e], zeros for an absent segment."""
        is_media = is_media_token(inputs)
        fields = self.arch, self.dtype, self.remat, self.unroll
        text_inputs = dataclasses.replace(
            mask_to(inputs, ~is_media),
            patches=inputs.patches[:, :0],
            patch_xy=inputs.patch_xy[:, :0],
            audio=inputs.audio[:, :0],
            audio_mask=inputs.audio_mask[:, :0],
        )
        text = l2_normalize(Encoder(*fields, name="words")(text_inputs))
        if not (inputs.patches.size or inputs.audio.size):
            return text
        media = l2_normalize(Encoder(*fields, name="media")(mask_to(inputs, is_media)))
        has_text = count_tokens(inputs, ~is_media) > NUM_SPECIAL
        has_media = count_tokens(inputs, is_media) > 0
        return text * has_text + media * has_media


def mask_to(inputs: Inputs, mask: jax.Array) -> Inputs:
    """The inputs without the tokens outside mask bool[b,l]: the others are compacted to the left of the row, padding
    follows."""
    kept = mask & (inputs.segments > 0)
    operands = (
        ~kept,
        jnp.where(kept, inputs.tokens, PAD_ID),
        jnp.where(kept, inputs.segments, 0),
        jnp.where(kept, inputs.soft_token_index, -1),
    )
    _, tokens, segments, soft_token_index = jax.lax.sort(operands, dimension=1, is_stable=True, num_keys=1)
    column = jnp.arange(kept.shape[1]).reshape(1, -1)
    starts = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    positions = column - jax.lax.cummax(jnp.where(starts, column, 0), axis=1)
    return dataclasses.replace(
        inputs, tokens=tokens, segments=segments, positions=positions, soft_token_index=soft_token_index
    )


def count_tokens(inputs: Inputs, mask: jax.Array) -> jax.Array:
    """Number of each segment's tokens inside mask bool[b,l] -> i32[b,s,1]."""
    numbers = jnp.arange(1, inputs.max_segments + 1).reshape(1, 1, -1)
    members = rearrange(inputs.segments, "b l -> b l 1") == numbers
    return rearrange(jnp.sum(members & rearrange(mask, "b l -> b l 1"), axis=1), "b s -> b s 1")


def l2_normalize(x: jax.Array) -> jax.Array:
    """x over its last axis's norm; zeros stay zero."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-24))
