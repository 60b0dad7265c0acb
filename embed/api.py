"""Load once, embed anything: strings, files, pictures, sounds, videos, PDFs, and lists of these in order."""

import dataclasses
import io
import os
import pathlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import soundfile
from PIL import Image as Pillow

from embed import checkpoint, mesh
from embed.data import prompts
from embed.data.layout import Budget, Layout, Picture, Piece, Sound, decode, empty, length, row, stack
from embed.data.records import Audio, Content, Image, Part, Pdf, Text, Video
from embed.inputs import Inputs
from embed.model.encoder import Encoder, encode
from embed.search import truncate

SUFFIXES: dict[str, type] = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"), Image),
    **dict.fromkeys((".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac"), Audio),
    **dict.fromkeys((".mp4", ".mov", ".mkv", ".webm", ".avi"), Video),
    ".pdf": Pdf,
}
TOKENS = 16  # rows are padded to a multiple of this, so that few shapes are compiled


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Rows laid out once, to be encoded by any parameters: batches of one shape each, and whose rows they are."""

    batches: tuple[tuple[np.ndarray, Inputs], ...]
    count: int


class Embedder:
    """A trained encoder as a function from anything to unit vectors. `Embedder.load(path)` makes one."""

    def __init__(self, encoder: Encoder, params: dict, layout: Layout):
        self.encoder, self.params, self.layout = encoder, params, layout

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Embedder":
        """From a run's or soup's folder (its last step) or one `checkpoints/STEP` of it, onto one device or the set mesh.

        Raises CheckpointError where there is none or its tokenizer is not the one it was trained with.
        """
        path = pathlib.Path(path)
        encoder = Encoder(checkpoint.architecture(checkpoint.metadata(path)), remat=False)
        return cls(encoder, checkpoint.load_params(path), checkpoint.load_layout(path))

    def embed(
        self, items: Sequence[Any], *, dim: int | None = None, task: str | None = None, patches: int | None = None
    ) -> np.ndarray:
        """Vectors f32[n, dim] of unit norm, one an item, in order.

        An item is a string, a `pathlib.Path` (image, audio, video, PDF, else text), a PIL image, (waveform f32[n] or
        f32[n,channels], rate), video frames u8[i,h,w,3] at one a second, a record's part, or a list of these, interleaved.
        `task` is a query's task name ("search result", ...) or "document", for items of text alone; `dim` a Matryoshka
        width; `patches` the soft tokens of an image or page, if not the model's own number.

        Raises ValueError (MediaError, LimitError, ...) naming the item that cannot be embedded and why.
        """
        widths = self.encoder.arch.widths
        if dim is not None and not 1 <= dim <= widths[-1]:
            raise ValueError(f"dim {dim} is not within 1..{widths[-1]}; trained widths: {', '.join(map(str, widths))}")
        pieces = []
        for number, item in enumerate(items):
            try:
                pieces.append(self._pieces(item, task, patches))
            except (ValueError, OSError) as error:
                kind = type(error) if isinstance(error, ValueError) else ValueError
                raise kind(f"item {number}: {error}") from error
        return truncate(self.encode(self.prepare(pieces)), dim or widths[-1])

    def _pieces(self, item: Any, task: str | None, patches: int | None) -> list[Piece]:
        parts = [to_part(part) for part in (item if isinstance(item, list) else [item])]
        if not parts:
            raise ValueError("an empty list; an input has at least one part")
        if all(isinstance(part, Text) for part in parts) and task is not None:
            content = tuple(part for part in parts if isinstance(part, Text))
            parts = list(prompts.as_document(content) if task == "document" else prompts.as_query(content, task))
        elif task is not None and task != "document":
            prompts.as_query((), task)  # no prompt beside media, but the name must be a known one
        pieces: list[Piece] = []
        for part in parts:
            if isinstance(part, np.ndarray):
                pieces += self._frames(part)
            else:
                pieces += decode((part,), self.layout, patches)
        length(pieces, self.layout.tokenizer)
        return pieces

    def _frames(self, frames: np.ndarray) -> list[Piece]:
        from embed.data.patches import resize_to_patches

        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not 1 <= len(frames) <= 32:
            raise ValueError(f"a video array is u8[1..32,h,w,3]; got {frames.dtype}{list(frames.shape)}")
        most, around = self.layout.frame_patches, self.layout.tokenizer.video
        return [Picture(*resize_to_patches(frame, self.layout.patch, most), around) for frame in frames]

    def prepare(self, pieces: Sequence[list[Piece]], batch: int = 64) -> Prepared:
        """Inputs grouped by shape into batches of at most `batch` rows (smaller ones padded to a power of two)."""
        groups: dict[Budget, list[int]] = defaultdict(list)
        for i, one in enumerate(pieces):
            groups[_shape(one, self.layout)].append(i)
        batches = []
        for budget, members in groups.items():
            for start in range(0, len(members), batch):
                chosen = members[start : start + batch]
                rows = [row(pieces[i], budget, self.layout) for i in chosen]
                padded = 1 << (len(rows) - 1).bit_length()
                rows += [empty(budget, self.layout)] * (padded - len(rows))
                batches.append((np.array(chosen), stack(rows, budget, self.layout)))
        return Prepared(tuple(batches), len(pieces))

    def encode(self, prepared: Prepared, params: dict | None = None) -> np.ndarray:
        """Raw embeddings f32[n,e] of prepared inputs, by this embedder's parameters or others of the same form."""
        out = np.zeros((prepared.count, self.encoder.arch.embedding), np.float32)
        with jax.set_mesh(mesh.make_mesh((1, 1, 1))):
            params = jax.device_put(self.params if params is None else params)
            for members, inputs in prepared.batches:
                out[members] = np.asarray(encode(self.encoder, params, mesh.to_global(inputs)))[: len(members)]
        return out

    def prepare_contents(self, contents: Sequence[Content], task: str | None, patches: int | None) -> Prepared:
        """`prepare` for a benchmark's contents."""
        return self.prepare([self._pieces(list(content), task, patches) for content in contents])


def _shape(pieces: list[Piece], layout: Layout) -> Budget:
    """The smallest of the standard shapes that holds an input: tokens by 16, images, patches and frames by powers of two."""

    def up(n: int) -> int:
        return 1 << (n - 1).bit_length() if n else 0

    pictures = [len(piece.xy) for piece in pieces if isinstance(piece, Picture)]
    sounds = [len(piece.frames) for piece in pieces if isinstance(piece, Sound)]
    tokens = -(-length(pieces, layout.tokenizer) // TOKENS) * TOKENS
    tokens = tokens if tokens <= 128 else up(tokens)
    return Budget(tokens, up(len(pictures)), up(max(pictures, default=0)), up(len(sounds)), up(max(sounds, default=0)))


def to_part(item: Any) -> Part | np.ndarray:
    """One item of `Embedder.embed` that is not a list -> a record's part, or an array of video frames."""
    match item:
        case Text() | Image() | Audio() | Video() | Pdf():
            return item
        case str():
            return Text(item)
        case pathlib.Path():
            kind = SUFFIXES.get(item.suffix.lower())
            data = item.read_bytes()
            if not data:
                raise ValueError(f"{item} is an empty file")
            if kind is not None:
                return kind(data)
            try:
                return Text(data.decode())
            except UnicodeDecodeError as error:
                raise ValueError(f"{item}: neither a known media file nor UTF-8 text") from error
        case Pillow.Image():
            out = io.BytesIO()
            (item if item.mode in ("RGB", "RGBA", "L", "P", "LA", "1") else item.convert("RGB")).save(out, "PNG")
            return Image(out.getvalue())
        case (np.ndarray() as samples, int() as rate):
            out = io.BytesIO()
            soundfile.write(out, np.asarray(samples, np.float32), rate, format="WAV", subtype="FLOAT")
            return Audio(out.getvalue())
        case np.ndarray():
            return item
    raise ValueError(
        f"cannot embed {type(item).__name__}: give a string, a path, a PIL image, (waveform, rate), frames"
    )
