"""What the data, the model and the loss exchange: rows of interleaved parts, and pairs of rows.

Shape letters: b rows, l tokens, i images or frames, p patches, c patch content, a audio clips, t audio frames, m frame
content, q queries, h hard negatives per query. A modality that a task lacks is an array of length zero, never None.
"""

import dataclasses
from typing import Any

import flax.struct
import jax.numpy as jnp

Array = Any  # np.ndarray as the pipeline makes it, jax.Array once it is on the mesh


@dataclasses.dataclass(frozen=True)
class MediaFormat:
    """How images, video and audio become soft tokens; the data and the model must agree on it."""

    patch_size: int  # side in pixels of the square that becomes one soft token; 0: the model takes no images
    max_patches_per_side: int  # patches in a row or column at most
    image_patches: int  # soft tokens of an image or page, unless a task or a caller gives another budget
    frame_patches: int  # soft tokens of a video frame
    timestamps: bool  # "mm:ss " before every video frame
    audio_frame_size: int  # samples of one soft token (640 = 40 ms); 0: the model takes no audio
    mel_bins: int = 0  # m, bins of log-mel frames of 10 ms, four per soft token; 0: raw samples
    clip_tokens: int = 4500  # soft tokens per audio clip at most; longer audio becomes several clips (750 = 30 s)

    @property
    def audio_shape(self) -> tuple[int, int]:
        """(frames per soft token, values m per frame)."""
        return (4, self.mel_bins) if self.mel_bins else (1, self.audio_frame_size)


PAD_ID = 0  # the id of <pad>
NUM_SPECIAL = 2  # <bos> and <eos>, which every input has


@flax.struct.dataclass
class Dropout:
    """The share of each residual branch's activations that is dropped in training, and the key that draws them."""

    key: Array  # key[] of a step, or key[b] of its rows
    rate: float = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class Inputs:
    """Rows of one token sequence each, with media in the order that the user gave."""

    tokens: Array  # i32[b,l]      vocabulary ids; placeholder ids where media go
    segments: Array  # i32[b,l]    0 padding; 1..s numbers the inputs packed in the row
    positions: Array  # i32[b,l]   restart at 0 in every segment
    # i32[b,l], index into the row's soft tokens (vision first, then audio); -1: look up the vocabulary
    soft_token_index: Array
    patches: Array  # u8[b,i,p,c] pixels of image or video-frame patches: bytes, a quarter of what floats would be
    patch_xy: Array  # i32[b,i,p,2] column, row of the patch; -1,-1 = padding
    audio: Array  # f32[b,a,t,m]   raw frames of 640 samples (40 ms at 16 kHz), or mel frames of 10 ms
    audio_mask: Array  # bool[b,a,t]
    dropout: Dropout | None = None  # one key per row, set by the loss; None: no dropout
    max_segments: int = flax.struct.field(pytree_node=False, default=1)  # s, inputs packed into a row at most


def is_media_token(inputs: Inputs) -> Array:
    """Find soft tokens and the begin and end tokens of each image, frame and clip: bool[b,l]."""
    soft = inputs.soft_token_index >= 0
    before, after = jnp.pad(soft[:, 1:], ((0, 0), (0, 1))), jnp.pad(soft[:, :-1], ((0, 0), (1, 0)))
    return soft | before | after


@flax.struct.dataclass
class PackedIndices:
    """Where the inputs of packed pairs lie: n groups of g pairs, each packed into rows of its own.

    An index is row · max_segments + the input's number in the row, within its group's rows. Hard negatives lie among
    the targets.
    """

    query: Array  # i32[n,g]
    target: Array  # i32[n,g]
    negative: Array  # i32[n,g·h]
    overflowed: Array  # bool[n,g] an input of the pair fits in no row: the pair is not valid


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
    """A task-pure batch of queries, their targets, and h hard negatives per query (zero rows where the task has none).

    A row that could not be decoded stays with `valid` False: the loss uses it neither as a query nor as a candidate.
    """

    query: Inputs  # q rows; of packed pairs fewer, see `packed`, and the hard negatives are among the targets
    target: Inputs  # q rows; row i is the positive of query i
    negative: Inputs  # q·h rows; rows i·h .. i·h+h-1 belong to query i
    query_hash: Array  # u32[q,2]    64-bit hash of the raw content (two words: JAX integers are 32-bit)
    target_hash: Array  # u32[q,2]
    negative_hash: Array  # u32[q·h,2]
    valid: Array  # bool[q]
    packed: PackedIndices | None = None  # only of packed pairs
    truncated: Array | None = None  # bool[q] an input of the pair was cut to its task's budget
