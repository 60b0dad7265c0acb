"""The batch that data, model and loss agree on: rows of interleaved modalities, and pairs of them.

Shape letters: b rows, l tokens, i images or frames, p patches, c patch content, a audio clips, t audio frames, m frame
content, q queries, h hard negatives per query. A modality that a task lacks is an array of length zero, never None.
"""

import dataclasses
from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np

Array = Any  # np.ndarray in the data pipeline, jax.Array on the mesh


@dataclasses.dataclass(frozen=True)
class MediaFormat:
    """How images, video and audio become soft tokens: what the preprocessor makes and the model expects."""

    patch_size: int  # side in pixels of the square that becomes one soft token; 0 = a model without images
    max_patches_per_side: int  # at most this many patches per row or column
    image_patches: int  # soft tokens per image or page, unless a task or a caller sets another budget
    frame_patches: int  # soft tokens per video frame
    timestamps: bool  # "mm:ss " before every video frame
    audio_frame_size: int  # samples per soft token (640 = 40 ms); 0 = a model without audio
    mel_bins: int = 0  # m, bins of log-mel frames of 10 ms, four per soft token; 0 = raw samples
    clip_tokens: int = 4500  # at most this many soft tokens per audio clip (750 = 30 s); longer audio is split

    @property
    def audio_shape(self) -> tuple[int, int]:
        """(frames per soft token, values m per frame)."""
        return (4, self.mel_bins) if self.mel_bins else (1, self.audio_frame_size)


PAD_ID = 0  # the id of <pad>
NUM_SPECIAL = 2  # <bos> and <eos>, which every input has


@flax.struct.dataclass
class Dropout:
    """Dropout of every residual branch in training."""

    key: Array  # key[] of a step, or key[b], one per row
    rate: float = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class Inputs:
    """Rows of one token sequence each, with media in the order that the user gave."""

    tokens: Array  # i32[b,l]      vocabulary ids; placeholder ids where media go
    segments: Array  # i32[b,l]    0 padding; 1..s numbers the inputs packed in the row
    positions: Array  # i32[b,l]   restart at 0 in every segment
    soft_token_index: Array  # i32[b,l] into the row's soft tokens (vision, then audio); -1 = look up the vocabulary
    patches: Array  # u8[b,i,p,c] pixels of image or video-frame patches
    patch_xy: Array  # i32[b,i,p,2] column, row of the patch; -1,-1 = padding
    audio: Array  # f32[b,a,t,m]   raw frames of 640 samples (40 ms at 16 kHz), or mel frames of 10 ms
    audio_mask: Array  # bool[b,a,t]
    dropout: Dropout | None = None  # one key per row, set by the loss; None = no dropout
    max_segments: int = flax.struct.field(pytree_node=False, default=1)  # s, at most this many inputs per row


def is_media_token(inputs: Inputs) -> Array:
    """bool[b,l]: soft tokens and the delimiters of each image, frame and clip."""
    soft = inputs.soft_token_index >= 0
    opens = jnp.pad(soft[:, 1:], ((0, 0), (0, 1)))
    closes = jnp.pad(soft[:, :-1], ((0, 0), (1, 0)))
    return soft | opens | closes


@flax.struct.dataclass
class PackedIndices:
    """Where the inputs of packed pairs are: n groups of g pairs, each group packed into its own rows.

    An index is the row within the group times `max_segments`, plus the segment in the row. Hard negatives are in the
    targets' rows.
    """

    query: Array  # i32[n,g]
    target: Array  # i32[n,g]
    negative: Array  # i32[n,g·h]
    overflowed: Array  # bool[n,g] an input of the pair did not fit; the pair is not valid


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Which keys are a query's negatives, beside its own hard negatives. The default is the report's."""

    in_batch: bool = True  # other rows' targets; False = own negatives only, for classification with few labels
    cross_query_hard_negatives: bool = False  # other rows' hard negatives too
    margin: float | None = None  # drop candidates with cosine above the positive's + margin: likely false negatives
    symmetric: bool = False  # average with the loss of each target against the batch's queries


REPORT_CANDIDATES = Candidates()


@flax.struct.dataclass
class Pairs:
    """A batch of one task: queries, their targets, and h hard negatives per query (zero rows where h = 0).

    A pair that could not be decoded keeps its row, with `valid` False: it is neither query nor candidate in the loss.
    """

    query: Inputs  # q rows; fewer where packed, and then hard negatives are in the targets' rows
    target: Inputs  # q rows; row i is the positive of query i
    negative: Inputs  # q·h rows; rows i·h .. i·h+h-1 belong to query i
    query_hash: Array  # u32[q,2]    64-bit hash of the raw content (two words: JAX integers are 32-bit)
    target_hash: Array  # u32[q,2]
    negative_hash: Array  # u32[q·h,2]
    valid: Array  # bool[q]
    packed: PackedIndices | None = None  # None = one input per row
    truncated: Array | None = None  # bool[q] an input of the pair was truncated to its task's budget
    # f32[q], higher is more similar; f32[0] in a task whose pairs are not graded
    score: Array = flax.struct.field(default_factory=lambda: np.zeros(0, np.float32))
