"""Load once, embed anything: strings, files, images, audio, videos, PDFs, and lists of these in order."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from embed import hf
from embed.batch import Inputs
from embed.data import prompts
from embed.data.batching import Size, measure, plan_batches
from embed.data.budget import Budget, num_tokens, truncate_text
from embed.data.collate import make_packed_rows
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
from embed.training.checkpoint import CheckpointError
from embed.training.metadata import check_architecture, load_preprocessor
from embed.training.weights import check_finite, load_encoder, load_params


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Inputs that are made once and encoded by any parameters.

    batches: per batch, the items of all its segments (i32[b·s], -1 where one is absent), and this host's rows.
    """

    batches: tuple[tuple[np.ndarray, Inputs], ...]
    count: int


class Embedder:
    """A trained encoder as a function from anything to unit vectors; `Embedder.load(path)` makes one.

    It uses the mesh that is set when it is made (`jax.set_mesh`), else one device. On many hosts all call the same
    methods with the same items: each host decodes a share of them and gets all vectors.
    """

    def __init__(self, encoder: EncoderModule, params: dict, preprocessor: Preprocessor):
        # Layers written out make a backward pass faster; here they would only make every shape slow to compile.
        self.encoder = encoder.clone(unroll=1)
        self.params = params
        self.preprocessor = preprocessor
        self.mesh = mesh.current_mesh()

    @classmethod
    def load(cls, path: str | os.PathLike, trust: Collection[str] = (), dtype: DTypeLike = jnp.float32) -> "Embedder":
        """Load a run's or soup's folder (its last step), one `checkpoints/STEP` of it, or a published model: its
        folder, or owner/model@COMMIT of the Hugging Face hub. `dtype` is that of activations; embeddings are float32.

        The encoder is the one that the checkpoint was trained with. A class outside embed is imported only where
        `trust` names its import path, such as ("my_encoder:MyEncoder",). Raises CheckpointError where there is no
        checkpoint or its tokenizer is not the one it was trained with, EncoderError for an encoder that is not trusted
        or cannot be imported, HubError for a folder of another kind of model.
        """
        path = hf.resolve(path) if "@" in str(path) else storage.path(path)
        with jax.set_mesh(mesh.current_mesh()):
            if (path / "config.json").exists():
                path = hf.resolve(path)
                return cls(build(hf.read_architecture(path), dtype), hf.load(path), hf.load_preprocessor(path))
            encoder = load_encoder(path, trust).clone(dtype=jnp.dtype(dtype))
            params = load_params(path, param_structs(encoder))
            return cls(encoder, params, load_preprocessor(path))

    def load_params(self, path: str | os.PathLike) -> dict:
        """Load the parameters of another run or soup of the same architecture, to `encode` with.

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
        """Embed items as vectors f32[n,dim] of unit norm, one per item, in order.

        items: a list or any other iterable in order: a tuple, an iterator, an array or a column of strings, a dict's
            values; not a single item, a dict, a set or a table. An item is a string, a `pathlib.Path` (image, audio,
            video, PDF, else text; see `files.read_file`), a PIL image, a tuple (waveform f[n] or f[n,channels] in
            -1..1, sample rate in Hz), video frames u8[i,h,w,3] at one per second, a record's part, or a list of these.
        dim: a Matryoshka width; None = all dimensions.
        task: a query's task name ("search result", ...) or "document"; for items of text alone.
        patches: soft tokens of an image or page; None = the model's default.

        Raises ValueError (MediaError, LimitError, ...), naming the item that cannot be embedded and why.
        """
        sequence, width = to_sequence(items), self.width(dim)

        def read(number: int) -> list[Piece]:
            with _naming(f"item {number}"):
                return self.pieces(sequence[number], task, patches)

        return truncate_dim(self.encode(self.prepare(read, len(sequence))), width)

    def width(self, dim: int | None) -> int:
        """Return the dimensions of a vector: `dim`, or all if None. Raises ValueError where the model has fewer."""
        widths = self.encoder.arch.matryoshka_dims
        try:
            return widths[-1] if dim is None else to_integer("dim", dim, widths[-1])
        except ValueError as error:
            raise ValueError(f"{error}; trained widths: {', '.join(map(str, widths))}") from None

    def pieces(
        self, item: Any, task: str | None = None, patches: int | None = None, tokens: int | None = None
    ) -> list[Piece]:
        """Decode one item of `embed` into pieces of the token sequence; its text is truncated to `tokens`, if given.

        Raises ValueError and OSError.
        """
        patches = None if patches is None else to_integer("patches", patches, MAX_TOKENS)
        if not isinstance(task, str | None):
            raise ValueError(f"task is the name of a task, a string; got {type(task).__name__}")
        if task is not None and task != "document":
            prompts.as_query((), task)  # refuses an unknown name, also beside media, which take no prompt
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
        """Make inputs of items 0..count-1, which `read` decodes, in batches of at most `batch` rows.

        Item i belongs to batch shard i mod n (`mesh.local_batch_shards`), so that each host reads its own items alone.
        """
        with jax.set_mesh(self.mesh):
            shards, num_shards = mesh.local_batch_shards()
            pieces = {item: read(item) for shard in shards for item in range(shard, count, num_shards)}
            sizes = self._gather_sizes(pieces, count)
        batches = []
        for planned in plan_batches(sizes, num_shards, batch):
            rows = [[pieces[item] for item in row] for shard in shards for row in planned.shards[shard]]
            inputs = make_packed_rows(rows, planned.budget, self.preprocessor, planned.max_segments)
            batches.append((planned.segments, inputs))
        return Prepared(tuple(batches), count)

    def _gather_sizes(self, pieces: dict[int, list[Piece]], count: int) -> list[Size]:
        """Return the size of every item on every host, from each host's own items."""
        shards, num_shards = mesh.local_batch_shards()
        table = np.zeros((len(shards), -(-count // num_shards), 1 + len(dataclasses.fields(Budget))), np.int32)
        for item, item_pieces in pieces.items():
            size = measure(item_pieces, self.preprocessor.tokenizer)
            table[shards.index(item % num_shards), item // num_shards] = size.tokens, *dataclasses.astuple(size.budget)
        table = mesh.to_host(mesh.to_global(table))
        rows = [table[item % num_shards, item // num_shards].tolist() for item in range(count)]
        return [Size(tokens, Budget(*budget)) for tokens, *budget in rows]

    def encode(
        self, prepared: Prepared, params: dict | None = None, advance: Callable[[int], None] | None = None
    ) -> np.ndarray:
        """Encode prepared inputs as embeddings f32[n,e], not normalized, by these or other parameters of the encoder.

        After each batch `advance` is called with how many inputs it held. Raises CheckpointError where an embedding is
        zero or not finite: the parameters are broken.
        """
        out = np.zeros((prepared.count, self.encoder.arch.embed_dim), np.float32)
        params = self.params if params is None else params
        with jax.set_mesh(self.mesh):
            for items, inputs in prepared.batches:
                vectors = mesh.to_host(encode(self.encoder, params, mesh.to_global(inputs)))
                out[items[items >= 0]] = vectors[items >= 0]
                if advance is not None:
                    advance(int((items >= 0).sum()))
            broken = np.flatnonzero(~np.isfinite(out).all(axis=1) | ~out.any(axis=1))
            if len(broken):
                message = f"{len(broken)} of {prepared.count} embeddings are zero or not finite, first item {broken[0]}"
                check_finite(params, message)
                raise CheckpointError(f"{message}, though the parameters are finite: take another checkpoint")
        return out

    def prepare_contents(
        self,
        contents: Sequence[Content],
        name: Callable[[int], str],
        task: str | None,
        patches: int | None,
        tokens: int,
    ) -> Prepared:
        """Prepare a benchmark's contents, each with at most `tokens` tokens of text.

        Raises as `embed` does, naming content i as `name(i)`.
        """

        def read(number: int) -> list[Piece]:
            with _naming(name(number)):
                return self.pieces(list(contents[number]), task, patches, tokens)

        return self.prepare(read, len(contents))


@contextlib.contextmanager
def _naming(item: str) -> Iterator[None]:
    """Name the item in front of an error's message."""
    try:
        yield
    except (ValueError, OSError) as error:
        error_class = type(error) if isinstance(error, MediaError | LimitError) else ValueError
        raise error_class(f"{item}: {error}") from error
