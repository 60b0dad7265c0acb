"""The encoder: look up tokens, put soft tokens in their places, run the backbone, pool per segment, project."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.typing import DTypeLike

from embed.batch import PAD_ID, Dropout, Inputs, Pairs
from embed.distributed import mesh
from embed.model.audio import Conformer, FrameEmbedder
from embed.model.config import Architecture
from embed.model.layers import Einsum
from embed.model.transformer import Backbone
from embed.model.vision import PatchEmbedder, VisionTransformer


class Encoder(nn.Module):
    """Inputs -> one embedding a segment (report §3.1): E = f(mean_pool(M(x))), f linear and bias-free.

    `dtype` is the dtype of activations; parameters, pooling and projection are float32.
    """

    arch: Architecture
    dtype: DTypeLike = jnp.float32
    remat: bool = True
    unroll: int = 1

    @nn.compact
    def __call__(self, inputs: Inputs) -> jax.Array:
        """Rows of s = `inputs.max_segments` inputs at most -> f32[b,s,e], not normalised; an absent one gives zeros.

        `inputs.dropout`, where there is one, is for the branches of the backbone, not for the towers.
        """
        arch, d = self.arch, self.arch.d_model
        init = nn.initializers.normal(d**-0.5)
        table = self.param("vocabulary", init, (arch.vocab_size, d), jnp.float32, mesh.VOCABULARY)
        words = table.astype(self.dtype).at[inputs.tokens].get(out_sharding=mesh.TOKENS)
        words = words * jnp.asarray(d**0.5, self.dtype)

        none = jnp.zeros_like(words[:, :1])  # slot -1 reads this row, so that a row without media has one to read
        soft = jnp.concatenate([none, *self._soft_tokens(inputs)], axis=1)
        soft_token_index = inputs.soft_token_index[..., None]
        x = jnp.where(soft_token_index >= 0, jnp.take_along_axis(soft, soft_token_index + 1, axis=1), words)

        tokens = jnp.where(inputs.soft_token_index >= 0, PAD_ID, inputs.tokens)
        backbone = Backbone(arch, self.remat, self.unroll, name="backbone")
        x = backbone(x, tokens, inputs.segments, inputs.positions, inputs.dropout)
        pooled = mean_pool(x, inputs.segments, inputs.max_segments)
        return projection(arch, name="projection")(pooled)

    def _soft_tokens(self, inputs: Inputs) -> list[jax.Array]:
        """Of every row's images, then of its audio clips: [b,i·p,d] and [b,a·t,d]; nothing of what is not there."""
        arch, d, run = self.arch, self.arch.d_model, (self.remat, self.unroll)
        found = []
        if arch.media.patch_size and inputs.patches.size:
            vision: Any = (
                VisionTransformer(arch.vision, d, *run, name="vision")
                if arch.vision is not None
                else PatchEmbedder(d, arch.media.max_patches_per_side, name="vision")
            )
            pixels = inputs.patches.astype(jnp.float32) / 255
            found.append(vision(pixels.astype(self.dtype), inputs.patch_xy))
        if arch.media.audio_frame_size and inputs.audio.size:
            audio: Any = (
                Conformer(arch.audio, d, *run, name="audio")
                if arch.audio is not None
                else FrameEmbedder(d, name="audio")
            )
            found.append(audio(inputs.audio.astype(self.dtype), inputs.audio_mask))
        return [x.reshape(x.shape[0], x.shape[1] * x.shape[2], d, out_sharding=mesh.TOKENS) for x in found]


def projection(arch: Architecture, **kwargs: Any) -> Einsum:
    """The linear map f from the pooled [b,s,d] to the embeddings [b,s,e]."""
    return Einsum("bsd,de->bse", (arch.d_model, arch.embed_dim), mesh.OUT, mesh.TOKENS, **kwargs)


def mean_pool(x: jax.Array, segments: jax.Array, count: int) -> jax.Array:
    """Mean of x[b,l,d] over the tokens of segments 1..count i32[b,l] -> f32[b,s,d]; zeros for an absent segment."""
    member = (segments[..., None] == jnp.arange(1, count + 1).reshape(1, 1, -1)).astype(jnp.float32)
    total = jnp.einsum("bls,bld->bsd", member, x.astype(jnp.float32), out_sharding=mesh.TOKENS)
    return total / jnp.maximum(jnp.sum(member, axis=1)[..., None], 1)


def encode_pairs(
    encode: Callable[[Inputs], jax.Array], pairs: Pairs, dropout: Dropout | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Embeddings of queries f32[q,e], targets f32[q,e] and hard negatives f32[q·h,e], of rows f32[b,s,e].

    Sides of one shape go through the encoder together, targets and negatives always: a pass less to compile and run.
    With the step's `dropout` every row gets a key, which its side and its number in the batch decide: what is left out
    does not depend on the microbatch, the mesh or the number of hosts.
    """
    places = pairs.packed
    groups = len(pairs.valid) if places is None else len(places.query)
    sides = [pairs.query, pairs.target, *([pairs.negative] if len(pairs.negative.tokens) else [])]
    if dropout is not None and dropout.rate:
        sides = [with_dropout_keys(side, number, dropout) for number, side in enumerate(sides)]

    def together(*sides: Inputs) -> list[jax.Array]:
        """Each of a number of rows a group (an unpacked pair is one), as [n,k,e]; they stay on the group's device."""

        def join(*leaves: jax.Array) -> jax.Array:
            own = [mesh.split_leading(leaf, groups) for leaf in leaves]
            return mesh.merge_leading(jnp.concatenate(own, axis=1))

        counts = [len(side.tokens) // groups for side in sides]
        found = mesh.split_leading(encode(jax.tree.map(join, *sides)), groups)
        return [rearrange(one, "n r s e -> n (r s) e") for one in jnp.split(found, np.cumsum(counts)[:-1], axis=1)]

    one_shape = jax.tree.map(jnp.shape, sides[0]) == jax.tree.map(jnp.shape, sides[1])
    query, target, *negative = together(*sides) if one_shape else [*together(sides[0]), *together(*sides[1:])]
    if places is not None:
        query, target, *negative = (
            jnp.take_along_axis(side, rearrange(place, "n k -> n k 1"), axis=1)
            for side, place in ((query, places.query), (target, places.target), (target, places.negative))
        )
    query, target, *negative = map(mesh.merge_leading, (query, target, *negative))
    return query, target, negative[0] if negative else target[:0]


def with_dropout_keys(side: Inputs, number: int, dropout: Dropout) -> Inputs:
    own = jax.random.fold_in(dropout.key, number)
    rows = jnp.arange(len(side.tokens), out_sharding=mesh.ROWS)
    keys = jax.vmap(functools.partial(jax.random.fold_in, own))(rows)
    return dataclasses.replace(side, dropout=dataclasses.replace(dropout, key=keys))


def encode_by_microbatch(encode: Callable[[Inputs], jax.Array], inputs: Inputs, rows: int) -> jax.Array:
    """`encode` over microbatches of `rows` rows, each recomputed in the backward pass: exact gradients of the whole
    batch with the memory of one microbatch (GradCache, arXiv 2101.06983, as two transforms). Keys of dropout lie in
    `inputs`, a row's with the row, so both passes leave the same numbers out as the plain `encode`.

    Raises ValueError where `rows` does not divide the batch.
    """
    total = inputs.tokens.shape[0]
    if total <= rows:
        return encode(inputs)
    if total % rows:
        raise ValueError(f"microbatch of {rows} rows does not divide the batch of {total} rows")
    # The microbatch index is the inner factor, so that every microbatch is spread over all devices.
    split = jax.tree.map(lambda leaf: rearrange(mesh.split_leading(leaf, rows), "m g ... -> g m ..."), inputs)
    out = jax.lax.map(jax.checkpoint(encode), split)
    return rearrange(out, "g m ... -> (m g) ...")


def max_microbatch_rows(arch: Architecture, inputs: Inputs, positions: int) -> int:
    """How many rows a microbatch may have: the most that divide the batch, lie on all devices alike and hold no more
    than `positions` tokens, patches of a tower and frames together; at least one a device."""
    total, l = inputs.tokens.shape
    patches, frames = (math.prod(x.shape[1:3]) for x in (inputs.patches, inputs.audio))
    tower = arch.vision.pool_size**2 if arch.vision else 1  # small patches of a soft token
    row = l + patches * tower + frames
    fewest = min_rows()
    fitting = [n for n in range(fewest, total + 1, fewest) if total % n == 0 and n * row <= positions]
    return max(fitting, default=min(fewest, total))


@functools.partial(jax.jit, static_argnums=0)
def init_params(model: Encoder, key: jax.Array) -> dict:
    """Parameters of `model`, born in their layout; the same values on every mesh."""
    return model.init(key, sample_inputs(model.arch))["params"]


@functools.partial(jax.jit, static_argnums=0)
def init_projection(arch: Architecture, key: jax.Array) -> jax.Array:
    """A new projection f32[d,e] for a backbone that has none, born in its layout."""
    pooled = jnp.zeros((min_rows(), 1, arch.d_model), out_sharding=mesh.TOKENS)
    return projection(arch).init(key, pooled)["params"]["weight"]


def min_rows() -> int:
    return math.prod(jax.sharding.get_abstract_mesh().shape[axis] for axis in mesh.BATCH)


def sample_inputs(arch: Architecture) -> Inputs:
    """The smallest inputs that touch every parameter: a token, a patch, a frame, in as many rows as the mesh wants."""
    rows = min_rows()
    frames, content = arch.media.audio_shape

    def zeros(dtype: Any, *shape: int) -> jax.Array:
        return jnp.zeros((rows, *shape), dtype, out_sharding=jax.P(mesh.BATCH))

    ids = zeros(jnp.int32, 1)
    patches, xy = zeros(jnp.uint8, 1, 1, 3 * arch.media.patch_size**2), zeros(jnp.int32, 1, 1, 2)
    return Inputs(ids, ids, ids, ids, patches, xy, zeros(jnp.float32, 1, frames, content), zeros(bool, 1, frames))


@functools.partial(jax.jit, static_argnums=0)
def encode(model: Encoder, params: dict, inputs: Inputs) -> jax.Array:
    """One input a row -> f32[b,e], not normalised."""
    out: Any = model.apply({"params": params}, inputs)
    return rearrange(out, "b 1 e -> b e")
