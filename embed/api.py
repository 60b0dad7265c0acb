"""Load once, embed anything: strings, files, pictures, sounds, videos, PDFs, and lists of these in order."""

import contextlib
import dataclasses
import io
import os
import pathlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import soundfile
from etils import epath
from PIL import Image as Pillow

from embed import checkpoint, hf, mesh, storage
from embed.data import prompts
from embed.data.layout import (
    MAX_CHARACTERS,
    MAX_FRAMES,
    Budget,
    Layout,
    LimitError,
    Piece,
    check_images,
    cut_text,
    decode,
    film,
    length,
    standard_budget,
)
from embed.data.media import MediaError
from embed.data.records import MAX_MEDIA_BYTES, Audio, Content, Image, Part, Pdf, Text, Video
from embed.data.rows import make_rows
from embed.inputs import Inputs
from embed.model.encoder import Encoder, encode
from embed.search import truncate

SUFFIXES: dict[str, type] = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"), Image),
    **dict.fromkeys((".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac"), Audio),
    **dict.fromkeys((".mp4", ".mov", ".mkv", ".webm", ".avi"), Video),
    ".pdf": Pdf,
}
FEW = 8  # a batch has this many rows or all of them, so that few shapes are compiled
ATTENTION = 2**26  # rows times tokens squared of one batch: 64 rows of 1,024 tokens, 1 of 8,192


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Rows laid out once, to be encoded by any parameters: this host's rows of batches of one shape each, and of all
    rows of a batch, the items they are of (i32[b], -1 where a row is padding)."""

    batches: tuple[tuple[np.ndarray, Inputs], ...]
    count: int


class Embedder:
    """A trained encoder as a function from anything to unit vectors. `Embedder.load(path)` makes one.

    It works on the mesh that is set when it is made (`jax.set_mesh`), else on one device. On many hosts all call the
    same methods with the same items: each decodes a share of them, and gets all vectors.
    """

    def __init__(self, encoder: Encoder, params: dict, layout: Layout):
        self.encoder, self.params, self.layout, self.mesh = encoder, params, layout, mesh.present()

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Embedder":
        """From a run's or soup's folder (its last step), one `checkpoints/STEP` of it, or a published model: its
        folder, or owner/model@COMMIT of the Hugging Face hub.

        Raises CheckpointError where there is none or its tokenizer is not the one it was trained with, HubError for a
        folder of another kind of model.
        """
        path = hf.folder(path) if "@" in str(path) else storage.path(path)
        with jax.set_mesh(mesh.present()):
            if (path / "config.json").exists():
                path = hf.folder(path)
                return cls(Encoder(hf.architecture(path), remat=False), hf.load(path), hf.layout(path))
            encoder = Encoder(checkpoint.architecture(checkpoint.metadata(path)), remat=False)
            return cls(encoder, checkpoint.place_params(path), checkpoint.load_layout(path))

    def embed(
        self, items: Sequence[Any], *, dim: int | None = None, task: str | None = None, patches: int | None = None
    ) -> np.ndarray:
        """Vectors f32[n, dim] of unit norm, one an item, in order.

        An item is a string, a `pathlib.Path` (image, audio, video, PDF, else text), a PIL image, (waveform f32[n] or
        f32[n,channels], rate), video frames u8[i,h,w,3] at one a second, a record's part, or a list of these in order.
        `task` is a query's task name ("search result", ...) or "document", for items of text alone; `dim` a Matryoshka
        width; `patches` the soft tokens of an image or page, if not the model's own number.

        Raises ValueError (MediaError, LimitError, ...) naming the item that cannot be embedded and why.
        """
        if isinstance(items, str | bytes | os.PathLike):
            raise ValueError(f"expected a list of items, got one {type(items).__name__}: put it in a list")
        width = self.width(dim)

        def read(number: int) -> list[Piece]:
            with _naming(f"item {number}"):
                return self.pieces(items[number], task, patches)

        return truncate(self.encode(self.prepare(read, len(items))), width)

    def width(self, dim: int | None) -> int:
        """The numbers of a vector where `dim` are asked for, all if None. Raises ValueError for more than there are."""
        widths = self.encoder.arch.widths
        if dim is not None and not 1 <= dim <= widths[-1]:
            raise ValueError(f"dim {dim} is not within 1..{widths[-1]}; trained widths: {', '.join(map(str, widths))}")
        return dim or widths[-1]

    def pieces(
        self, item: Any, task: str | None = None, patches: int | None = None, tokens: int | None = None
    ) -> list[Piece]:
        """One item of `embed` decoded and cut to soft tokens; of its text at most `tokens`, however long it is.

        Raises ValueError and OSError.
        """
        if patches is not None and patches < 1:
            raise ValueError(f"{patches} soft tokens of an image; at least 1")
        parts = [to_part(part) for part in (item if isinstance(item, list) else [item])]
        if not parts:
            raise ValueError("an empty list; an input has at least one part")
        if all(isinstance(part, Text) for part in parts) and task is not None:
            content = tuple(part for part in parts if isinstance(part, Text))
            parts = list(prompts.as_document(content) if task == "document" else prompts.as_query(content, task))
        elif task is not None and task != "document":
            prompts.as_query((), task)  # no prompt beside media, but the name must be a known one
        check_images(parts)
        if tokens is not None:
            parts = [Text(part.text[:MAX_CHARACTERS]) if isinstance(part, Text) else part for part in parts]
        pieces: list[Piece] = []
        for part in parts:
            if isinstance(part, np.ndarray):
                pieces += self._frames(part, patches)
            else:
                pieces += decode((part,), self.layout, patches)
        if tokens is not None:
            pieces = cut_text(pieces, tokens)
        length(pieces, self.layout.tokenizer)
        return pieces

    def _frames(self, frames: np.ndarray, patches: int | None) -> list[Piece]:
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not 1 <= len(frames) <= MAX_FRAMES:
            raise ValueError(f"a video array is u8[1..{MAX_FRAMES},h,w,3]; got {frames.dtype}{list(frames.shape)}")
        return film(frames, range(len(frames)), self.layout, patches)

    def prepare(self, read: Callable[[int], list[Piece]], count: int, batch: int = 64) -> Prepared:
        """Items 0..count-1, decoded by `read`, as inputs by shape: in batches of at most `batch` rows, fewer of long
        ones, padded to that number or to 8, and to a row a part of the mesh.

        Item i is in part i mod n of the mesh (`mesh.lines`), so hosts read their own items alone.
        """
        with jax.set_mesh(self.mesh):
            own, parts = mesh.lines()
            pieces = {number: read(number) for line in own for number in range(line, count, parts)}
            budgets = {number: standard_budget(one, self.layout.tokenizer) for number, one in pieces.items()}
            table = np.zeros((len(own), -(-count // parts), len(dataclasses.fields(Budget))), np.int32)
            for number, budget in budgets.items():
                table[own.index(number % parts), number // parts] = dataclasses.astuple(budget)
            table = mesh.gather(mesh.to_global(table))
        groups: dict[Budget, list[list[int]]] = defaultdict(lambda: [[] for _ in range(parts)])
        for number in range(count):
            groups[Budget(*table[number % parts, number // parts].tolist())][number % parts].append(number)
        batches = []
        for budget, members in groups.items():  # of every part
            most = -(-min(batch, max(ATTENTION // budget.tokens**2, 1)) // parts)  # rows of a part
            few = min(-(-FEW // parts), most)
            for start in range(0, max(map(len, members)), most):
                chosen = [part[start : start + most] for part in members]
                rows = most if max(map(len, chosen)) > few else few
                filled = [part + [-1] * (rows - len(part)) for part in chosen]
                local = [pieces.get(i) for line in own for i in filled[line]]  # -1 is none
                batches.append((np.concatenate(filled), make_rows(local, budget, self.layout)))
        return Prepared(tuple(batches), count)

    def encode(self, prepared: Prepared, params: dict | None = None) -> np.ndarray:
        """Raw embeddings f32[n,e] of prepared inputs, by this embedder's parameters or others of the same form."""
        out = np.zeros((prepared.count, self.encoder.arch.embedding), np.float32)
        params = self.params if params is None else params
        with jax.set_mesh(self.mesh):
            for members, inputs in prepared.batches:
                vectors = mesh.gather(encode(self.encoder, params, mesh.to_global(inputs)))
                out[members[members >= 0]] = vectors[members >= 0]
        return out

    def prepare_contents(
        self,
        contents: Sequence[Content],
        name: Callable[[int], str],
        task: str | None,
        patches: int | None,
        tokens: int,
    ) -> Prepared:
        """`prepare` for a benchmark's contents, with at most `tokens` tokens of text each.

        Raises as `embed` does, naming content i as `name(i)`.
        """

        def read(number: int) -> list[Piece]:
            with _naming(name(number)):
                return self.pieces(list(contents[number]), task, patches, tokens)

        return self.prepare(read, len(contents))


@contextlib.contextmanager
def _naming(item: str) -> Iterator[None]:
    """Puts what an error is about in front of it."""
    try:
        yield
    except (ValueError, OSError) as error:
        kind = type(error) if isinstance(error, MediaError | LimitError) else ValueError
        raise kind(f"{item}: {error}") from error


def to_part(item: Any) -> Part | np.ndarray:
    """One item of `Embedder.embed` that is not a list -> a record's part, or an array of video frames.

    Raises ValueError for what is none of these, OSError for a file that cannot be read.
    """
    match item:
        case Text() | Image() | Audio() | Video() | Pdf():
            return item
        case str():
            return Text(item)
        case pathlib.Path() | epath.Path():
            return _read(storage.local(item))
        case Pillow.Image():
            out = io.BytesIO()
            (item if item.mode in ("RGB", "RGBA", "L", "P", "LA", "1") else item.convert("RGB")).save(out, "PNG")
            return Image(out.getvalue())
        case (np.ndarray() as samples, int() | np.integer() as rate):
            if samples.ndim not in (1, 2) or not np.issubdtype(samples.dtype, np.floating):
                raise ValueError(
                    f"a waveform is f32[n] or f32[n,channels] in -1..1; got {samples.dtype}{list(samples.shape)}"
                )
            out = io.BytesIO()
            try:
                soundfile.write(out, samples.astype(np.float32), int(rate), format="WAV", subtype="FLOAT")
            except (soundfile.SoundFileError, OverflowError) as error:
                raise ValueError(f"a waveform {list(samples.shape)} at {rate} Hz is no sound: {error}") from error
            return Audio(out.getvalue())
        case np.ndarray():
            return item
    raise ValueError(
        f"cannot embed {type(item).__name__}: give a string, a path, a PIL image, (waveform, rate), frames"
    )


def _read(path: pathlib.Path) -> Part:
    """A file as a part, by its name: a known medium, else text."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a file")
    if path.stat().st_size > MAX_MEDIA_BYTES:
        raise ValueError(f"{path} is larger than {MAX_MEDIA_BYTES >> 20} MiB")
    data = path.read_bytes()
    if not data:
        raise ValueError(f"{path} is an empty file")
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is not None:
        return kind(data)
    try:
        return Text(data.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: neither a known media file nor UTF-8 text") from error
