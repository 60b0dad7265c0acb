"""Load once, embed anything: strings, files, pictures, sounds, videos, PDFs, and lists of these in order."""

import contextlib
import dataclasses
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from embed import hf
from embed.batch import Inputs
from embed.data import prompts
from embed.data.budget import Budget, num_tokens, standard_budget, truncate_text
from embed.data.collate import make_rows
from embed.data.items import to_integer, to_parts, to_sequence
from embed.data.media.decode import MediaError
from embed.data.modalities import VIDEO, Content, Text
from embed.data.pieces import MAX_CHARACTERS, MAX_TOKENS, LimitError, Piece
from embed.data.preprocess import Preprocessor, check_part_counts, cut_to_pieces, make_pieces
from embed.distributed import mesh, storage
from embed.model.build import EncoderModule, build
from embed.model.encoder import encode
from embed.model.matryoshka import truncate_dim
from embed.model.params import param_structs
from embed.training import checkpoint
from embed.training.metadata import check_architecture, load_preprocessor
from embed.training.weights import check_finite, load_encoder, load_params

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

    def __init__(self, encoder: EncoderModule, params: dict, preprocessor: Preprocessor):
        self.encoder, self.params, self.preprocessor, self.mesh = encoder, params, preprocessor, mesh.current_mesh()

    @classmethod
    def load(cls, path: str | os.PathLike, trust: Collection[str] = ()) -> "Embedder":
        """From a run's or soup's folder (its last step), one `checkpoints/STEP` of it, or a published model: its
        folder, or owner/model@COMMIT of the Hugging Face hub.

        The encoder is the one that the checkpoint was trained with. A class outside embed is imported only where
        `trust` names its import path, such as ("my_encoder:MyEncoder",). Raises CheckpointError where there is no
        checkpoint or its tokenizer is not the one it was trained with, EncoderError for an encoder that is not trusted
        or cannot be imported, HubError for a folder of another kind of model.
        """
        path = hf.resolve(path) if "@" in str(path) else storage.path(path)
        with jax.set_mesh(mesh.current_mesh()):
            if (path / "config.json").exists():
                path = hf.resolve(path)
                return cls(build(hf.read_architecture(path)), hf.load(path), hf.load_preprocessor(path))
            encoder = load_encoder(path, trust)
            params = load_params(path, param_structs(encoder))
            return cls(encoder, params, load_preprocessor(path))

    def load_params(self, path: str | os.PathLike) -> dict:
        """The parameters of another run or soup of the same architecture, to `encode` with.

        Raises CheckpointError where its architecture is another one: these parameters in this encoder would be a model
        that was never trained.
        """
        path = storage.path(path)
        with jax.set_mesh(self.mesh):
            check_architecture(path, self.encoder.arch)
            return load_params(path, param_structs(self.encoder))

    def embed(
        self, items: Iterable[Any], *, dim: int | None = None, task: str | None = None, patches: int | None = None
    ) -> np.ndarray:
        """Vectors f32[n, dim] of unit norm, one an item, in order.

        `items` is a list or anything else that gives items in order: a tuple, an iterator, an array or a column of
        strings, a dict's values; not one item, a dict, a set or a table. An item is a string, a `pathlib.Path` (image,
        audio, video, PDF, else text; see `files.read_file`), a PIL image, a tuple (waveform f[n] or f[n,channels] in
        -1..1, rate in Hz), video frames u8[i,h,w,3] at one a second, a record's part, or a list of these in order.
        `task` is a query's task name ("search result", ...) or "document", for items of text alone; `dim` a Matryoshka
        width; `patches` the soft tokens of an image or page, if not the model's own number.

        Raises ValueError (MediaError, LimitError, ...) naming the item that cannot be embedded and why.
        """
        sequence, width = to_sequence(items), self.width(dim)

        def read(number: int) -> list[Piece]:
            with _naming(f"item {number}"):
                return self.pieces(sequence[number], task, patches)

        return truncate_dim(self.encode(self.prepare(read, len(sequence))), width)

    def width(self, dim: int | None) -> int:
        """The numbers of a vector where `dim` are asked for, all if None. Raises ValueError for more than there are."""
        widths = self.encoder.arch.matryoshka_dims
        try:
            return widths[-1] if dim is None else to_integer("dim", dim, widths[-1])
        except ValueError as error:
            raise ValueError(f"{error}; trained widths: {', '.join(map(str, widths))}") from None

    def pieces(
        self, item: Any, task: str | None = None, patches: int | None = None, tokens: int | None = None
    ) -> list[Piece]:
        """One item of `embed` decoded and cut to soft tokens; of its text at most `tokens`, however long it is.

        Raises ValueError and OSError.
        """
        patches = None if patches is None else to_integer("patches", patches, MAX_TOKENS)
        if not isinstance(task, str | None):
            raise ValueError(f"task is the name of one, a string; got {type(task).__name__}")
        if task is not None and task != "document":
            prompts.as_query((), task)  # the name must be a known one, also beside media, which take no prompt
        parts = to_parts(item)
        if task is not None and all(isinstance(part, Text) for part in parts):
            content = tuple(part for part in parts if isinstance(part, Text))
            parts = list(prompts.as_document(content) if task == "document" else prompts.as_query(content, task))
        check_part_counts(part for part in parts if not isinstance(part, np.ndarray))
        if tokens is not None:
            parts = [Text(part.text[:MAX_CHARACTERS]) if isinstance(part, Text) else part for part in parts]
        pieces: list[Piece] = []
        for part in parts:
            if isinstance(part, np.ndarray):
                pieces += cut_to_pieces(VIDEO, (part, range(len(part))), self.preprocessor, patches)
            else:
                pieces += make_pieces((part,), self.preprocessor, patches)
        if tokens is not None:
            pieces = truncate_text(pieces, tokens)
        num_tokens(pieces, self.preprocessor.tokenizer)
        return pieces

    def prepare(self, read: Callable[[int], list[Piece]], count: int, batch: int = 64) -> Prepared:
        """Items 0..count-1, decoded by `read`, as inputs by shape: in batches of at most `batch` rows, fewer of long
        ones, padded to that number or to 8, and to a row a part of the mesh.

        Item i is in part i mod n of the mesh (`mesh.local_batch_shards`), so hosts read their own items alone.
        """
        with jax.set_mesh(self.mesh):
            own, parts = mesh.local_batch_shards()
            pieces = {number: read(number) for line in own for number in range(line, count, parts)}
            budgets = {number: standard_budget(one, self.preprocessor.tokenizer) for number, one in pieces.items()}
            table = np.zeros((len(own), -(-count // parts), len(dataclasses.fields(Budget))), np.int32)
            for number, budget in budgets.items():
                table[own.index(number % parts), number // parts] = dataclasses.astuple(budget)
            table = mesh.to_host(mesh.to_global(table))
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
                batches.append((np.concatenate(filled), make_rows(local, budget, self.preprocessor)))
        return Prepared(tuple(batches), count)

    def encode(self, prepared: Prepared, params: dict | None = None) -> np.ndarray:
        """Raw embeddings f32[n,e] of prepared inputs, by this embedder's parameters or others of the same form.

        Raises CheckpointError where one is not finite or zero: it has no direction, and the parameters are broken.
        """
        out = np.zeros((prepared.count, self.encoder.arch.embed_dim), np.float32)
        params = self.params if params is None else params
        with jax.set_mesh(self.mesh):
            for members, inputs in prepared.batches:
                vectors = mesh.to_host(encode(self.encoder, params, mesh.to_global(inputs)))
                out[members[members >= 0]] = vectors[members >= 0]
            broken = np.flatnonzero(~np.isfinite(out).all(axis=1) | ~out.any(axis=1))
            if len(broken):
                first = f"{len(broken)} of {prepared.count} embeddings are not finite or zero, item {broken[0]}'s first"
                check_finite(params, first)
                raise checkpoint.CheckpointError(f"{first}, though the parameters are finite: take another checkpoint")
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
