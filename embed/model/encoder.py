"""The encoder: look up tokens, insert soft tokens, run the backbone, pool per segment, project; and how a batch of
pairs goes through it."""

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
from flax.traverse_util import flatten_dict

from embed.batch import PAD_ID, Dropout, Inputs, Pairs
from embed.distributed import mesh
from embed.model.audio import Conformer, FrameEmbedder
from embed.model.build import EncoderModule
from embed.model.config import Architecture
from embed.model.layers import Einsum
from embed.model.pooling import find_pooling
from embed.model.transformer import Backbone
from embed.model.vision import PatchEmbedder, VisionTransformer


class Encoder(EncoderModule):
    """Inputs -> one embedding per segment (report §3.1): E = f(pool(M(x))), f linear and bias-free.

    Pooling and attention direction are those that `arch` names. Parameters, pooling and projection are float32.
    """

    @nn.compact
    def __call__(self, inputs: Inputs) -> jax.Array:
        """Rows of at most s = `inputs.max_segments` inputs -> f32[b,s,e], not normalized; zeros for an absent segment.

        `inputs.dropout` applies to the branches of the backbone, not to the towers.
        """
        arch = self.arch
        d = arch.d_model
        init = nn.initializers.normal(d**-0.5)
        table = self.param("vocabulary", init, (arch.vocab_size, d), jnp.float32, mesh.VOCABULARY)
        text = table.astype(self.dtype).at[inputs.tokens].get(out_sharding=mesh.TOKENS)
        text = text * jnp.asarray(d**0.5, self.dtype)

        pad_row = jnp.zeros_like(text[:, :1])  # index -1 reads this, so that rows without media have something to read
        soft = jnp.concatenate([pad_row, *self._soft_tokens(inputs)], axis=1)
        index = inputs.soft_token_index[..., None]
        x = jnp.where(index >= 0, jnp.take_along_axis(soft, index + 1, axis=1), text)

        tokens = jnp.where(inputs.soft_token_index >= 0, PAD_ID, inputs.tokens)
        backbone = Backbone(arch, self.remat, self.unroll, name="backbone")
        x = backbone(x, tokens, inputs.segments, inputs.positions, inputs.dropout)
        pooled = find_pooling(arch.pooling)(x, inputs.segments, inputs.max_segments)
        return projection(arch, name="projection")(pooled)

    def _soft_tokens(self, inputs: Inputs) -> list[jax.Array]:
        """Soft tokens of every row's images [b,i·p,d], then of its audio clips [b,a·t,d]; absent modalities are
        skipped."""
        arch = self.arch
        d = arch.d_model
        options = (self.remat, self.unroll)
        soft = []
        if arch.media.patch_size and inputs.patches.size:
            vision: nn.Module
            if arch.vision is not None:
                vision = VisionTransformer(arch.vision, d, *options, name="vision")
            else:
                vision = PatchEmbedder(d, arch.media.max_patches_per_side, name="vision")
            pixels = inputs.patches.astype(jnp.float32) / 255
            soft.append(vision(pixels.astype(self.dtype), inputs.patch_xy))
        if arch.media.audio_frame_size and inputs.audio.size:
            audio: nn.Module
            if arch.audio is not None:
                audio = Conformer(arch.audio, d, *options, name="audio")
            else:
                audio = FrameEmbedder(d, name="audio")
            soft.append(audio(inputs.audio.astype(self.dtype), inputs.audio_mask))
        return [x.reshape(x.shape[0], x.shape[1] * x.shape[2], d, out_sharding=mesh.TOKENS) for x in soft]


def projection(arch: Architecture, **kwargs: Any) -> Einsum:
    """The linear map f from the pooled [b,s,d] to the embeddings [b,s,e]."""
    return Einsum("bsd,de->bse", (arch.d_model, arch.embed_dim), mesh.OUT, mesh.TOKENS, **kwargs)


def encode_pairs(
    encode: Callable[[Inputs], jax.Array], pairs: Pairs, dropout: Dropout | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Embeddings of queries f32[q,e], targets f32[q,e] and hard negatives f32[q·h,e]; `encode` maps rows to f32[b,s,e].

    Targets and hard negatives go through the encoder together, and queries with them where shapes are equal: fewer
    passes to compile and run. With the step's `dropout`, every row gets a key from its side and its index in the batch:
    the mask does not depend on the microbatch, the mesh or the number of hosts.
    """
    packed = pairs.packed
    groups = len(pairs.valid) if packed is None else len(packed.query)  # an unpacked pair is a group
    sides = [pairs.query, pairs.target, *([pairs.negative] if len(pairs.negative.tokens) else [])]
    if dropout is not None and dropout.rate:
        sides = [with_dropout_keys(side, number, dropout) for number, side in enumerate(sides)]

    def encode_concatenated(*sides: Inputs) -> list[jax.Array]:
        """The embeddings [n,k,e] of each side, for n groups; rows of a group stay on the group's device."""

        def concatenate(*leaves: jax.Array) -> jax.Array:
            by_group = [mesh.split_leading(leaf, groups) for leaf in leaves]
            return mesh.merge_leading(jnp.concatenate(by_group, axis=1))

        counts = [len(side.tokens) // groups for side in sides]
        vectors = mesh.split_leading(encode(jax.tree.map(concatenate, *sides)), groups)
        parts = jnp.split(vectors, np.cumsum(counts)[:-1], axis=1)
        return [rearrange(part, "n r s e -> n (r s) e") for part in parts]

    if jax.tree.map(jnp.shape, sides[0]) == jax.tree.map(jnp.shape, sides[1]):
        vectors = encode_concatenated(*sides)
    else:
        vectors = [*encode_concatenated(sides[0]), *encode_concatenated(*sides[1:])]
    if packed is not None:
        query, target = vectors
        picks = [(query, packed.query), (target, packed.target), (target, packed.negative)]
        vectors = [jnp.take_along_axis(side, rearrange(index, "n k -> n k 1"), axis=1) for side, index in picks]
    query, target, *negative = map(mesh.merge_leading, vectors)
    return query, target, negative[0] if negative else target[:0]


def with_dropout_keys(side: Inputs, number: int, dropout: Dropout) -> Inputs:
    """Side `number` of the pairs with a dropout key per row."""
    side_key = jax.random.fold_in(dropout.key, number)
    rows = jnp.arange(len(side.tokens), out_sharding=mesh.ROWS)
    keys = jax.vmap(functools.partial(jax.random.fold_in, side_key))(rows)
    return dataclasses.replace(side, dropout=dataclasses.replace(dropout, key=keys))


def encode_by_microbatch(encode: Callable[[Inputs], jax.Array], inputs: Inputs, rows: int) -> jax.Array:
    """`encode` over microbatches of `rows` rows, each recomputed in the backward pass: exact gradients of the full
    batch with the memory of one microbatch (GradCache, arXiv 2101.06983, as two transforms). Dropout keys are part of
    `inputs`, one per row, so both passes use the masks of the plain `encode`.

    Raises ValueError where `rows` does not divide the batch.
    """
    total = inputs.tokens.shape[0]
    if total <= rows:
        return encode(inputs)
    if total % rows:
        raise ValueError(f"microbatch of {rows} rows does not divide the batch of {total} rows")
    # The microbatch index is the inner factor, so that every microbatch is sharded over all devices.
    split = jax.tree.map(lambda leaf: rearrange(mesh.split_leading(leaf, rows), "m g ... -> g m ..."), inputs)
    out = jax.lax.map(jax.checkpoint(encode), split)
    return rearrange(out, "g m ... -> (m g) ...")


def max_microbatch_rows(arch: Architecture, inputs: Inputs, positions: int) -> int:
    """The most rows of a microbatch that divide the batch and the devices and hold at most `positions` tokens, tower
    patches and audio frames together; at least one row per device."""
    total, l = inputs.tokens.shape
    patches = math.prod(inputs.patches.shape[1:3])
    frames = math.prod(inputs.audio.shape[1:3])
    patches_per_token = arch.vision.pool_size**2 if arch.vision else 1
    row = l + patches * patches_per_token + frames
    smallest = min_rows()
    fitting = [n for n in range(smallest, total + 1, smallest) if total % n == 0 and n * row <= positions]
    return max(fitting, default=min(smallest, total))


@functools.partial(jax.jit, static_argnums=0)
def init_params(encoder: EncoderModule, key: jax.Array) -> dict:
    """Initialize the parameters of `encoder`, sharded from the start; the same values on every mesh."""
    return encoder.init(key, sample_inputs(encoder.arch))["params"]


@functools.partial(jax.jit, static_argnums=(0, 1))
def init_leaves(encoder: EncoderModule, paths: tuple[tuple[str, ...], ...], key: jax.Array) -> list[jax.Array]:
    """Initialize the parameters at `paths` alone, as `init_params` does; the compiler leaves the others out."""
    params = flatten_dict(init_params(encoder, key))
    return [params[path] for path in paths]


def min_rows() -> int:
    """The number of row shards of the mesh: one row per device."""
    return math.prod(jax.sharding.get_abstract_mesh().shape[axis] for axis in mesh.BATCH)


def sample_inputs(arch: Architecture) -> Inputs:
    """The smallest inputs that use every parameter: a token, a patch and a frame, in one row per device."""
    rows = min_rows()
    frames, content = arch.media.audio_shape

    def zeros(dtype: Any, *shape: int) -> jax.Array:
        return jnp.zeros((rows, *shape), dtype, out_sharding=jax.P(mesh.BATCH))

    ids = zeros(jnp.int32, 1)
    return Inputs(
        tokens=ids,
        segments=ids,
        positions=ids,
        soft_token_index=ids,
        patches=zeros(jnp.uint8, 1, 1, 3 * arch.media.patch_size**2),
        patch_xy=zeros(jnp.int32, 1, 1, 2),
        audio=zeros(jnp.float32, 1, frames, content),
        audio_mask=zeros(bool, 1, frames),
    )


@functools.partial(jax.jit, static_argnums=0)
def encode(encoder: EncoderModule, params: dict, inputs: Inputs) -> jax.Array:
    """Embed rows -> f32[b·s,e], not normalized: a vector of each of a row's s segments, zeros for an absent one."""
    out: Any = encoder.apply({"params": params}, inputs)
    return mesh.merge_leading(out)
