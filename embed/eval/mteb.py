"""An Embedder as mteb's encoder and searcher, with this package's media decoding, prompts and exact search.

Tasks of text alone get the prompts of mteb's entry for Gemini Embedding 2. Media are decoded from the dataset's files
at the report's settings: video at one frame per second up to 32, audio truncated at 180 s, texts at 8,192 tokens.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import mteb
import numpy as np
from mteb._create_dataloaders import create_dataloader
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.types import PromptType
from PIL import Image as Pillow

from embed.data import prompts
from embed.data.budget import num_tokens, truncate_text
from embed.data.items import to_part
from embed.data.media.decode import MediaError, decode_audio
from embed.data.modalities import AUDIO, IMAGE, TEXT, VIDEO, Audio, Modality, Part, Text
from embed.data.pieces import MAX_CHARACTERS, MAX_TOKENS, LimitError, Piece, TextPiece
from embed.data.preprocess import cut_to_pieces, make_pieces
from embed.embedder import Embedder
from embed.model.matryoshka import truncate_dim
from embed.retrieval.search import top_k
from embed.training.weights import hash_params

REPORT = "google/gemini-embedding-2"
TASKS = {  # mteb's prompt names of Gemini Embedding 2 -> ours; documents have none
    "RETRIEVAL_QUERY": "search result",
    "QUESTION_ANSWERING": "question answering",
    "FACT_VERIFICATION": "fact checking",
    "CODE_RETRIEVAL_QUERY": "code retrieval",
    "CLASSIFICATION": "classification",
    "CLUSTERING": "clustering",
    "SEMANTIC_SIMILARITY": "sentence similarity",
}
# Names of the report's tables -> mteb's benchmarks.
BENCHMARKS = {
    "MTEB Multilingual": "MTEB(Multilingual, v2)",
    "MTEB Code": "MTEB(Code, v1)",
    "ViDoRe V2": "ViDoRe(v2)",
    "MAEB": "MAEB(v1)",
    "MIEB": "MIEB(Multilingual)",
    "MVEB": "MVEB(v1)",
}
BLOCK = 1024  # inputs decoded before they are encoded


def find_tasks(names: str) -> list[Any]:
    """Find mteb's tasks by a list "Banking77Classification,STS12", or by a benchmark's name in mteb or in the report.

    Raises KeyError for an unknown name, with the nearest ones.
    """
    if names in BENCHMARKS or names in {benchmark.name for benchmark in mteb.get_benchmarks()}:
        return list(mteb.get_benchmark(BENCHMARKS.get(names, names)).tasks)
    return [mteb.get_task(name.strip()) for name in names.split(",")]


class MtebModel(AbsEncoder):
    """mteb's EncoderProtocol and SearchProtocol; `dim` is a Matryoshka width, `patches` the soft tokens of an image."""

    def __init__(self, embedder: Embedder, name: str, dim: int | None = None, patches: int | None = None):
        self.embedder, self.dim, self.patches = embedder, embedder.width(dim), patches
        self.prompts: dict[str | None, str] = mteb.get_model_meta(REPORT).loader_kwargs["model_prompts"]
        self.model_prompts = {str(name): prompt for name, prompt in self.prompts.items()}
        media = embedder.preprocessor.media
        modalities: Any = [item.name for item in (TEXT, IMAGE, VIDEO, AUDIO) if item.is_supported(media)]
        self.mteb_model_meta = ModelMeta(
            loader=None,
            name=f"embed/{name}",
            revision=hash_params(embedder.params),
            release_date=None,
            languages=None,
            n_parameters=None,
            memory_usage_mb=None,
            max_tokens=MAX_TOKENS,
            embed_dim=self.dim,
            license=None,
            open_weights=None,
            public_training_code=None,
            public_training_data=None,
            framework=["JAX"],
            similarity_fn_name=ScoringFunction.COSINE,
            use_instructions=True,
            training_datasets=None,
            modalities=modalities,
            experiment_kwargs={"dim": dim} if dim else None,
        )

    def encode(
        self, inputs: Any, *, task_metadata: Any, prompt_type: PromptType | None = None, **kwargs: Any
    ) -> np.ndarray:
        """Embed the rows of mteb's data loader: f32[n, dim] of unit norm."""
        rows = _get_rows(inputs.dataset)
        is_text = set(task_metadata.modalities) == {"text"}
        name = self.get_prompt_name(task_metadata, prompt_type)
        task = TASKS.get(self.prompts.get(name, "")) if is_text else None
        is_document = is_text and prompt_type == PromptType.document
        embeddings = []
        for start in range(0, len(rows), BLOCK):
            # Each host reads only its own inputs.
            read = functools.partial(self._read, rows, task, is_document, start)
            prepared = self.embedder.prepare(read, min(BLOCK, len(rows) - start))
            embeddings.append(truncate_dim(self.embedder.encode(prepared), self.dim))
        return np.concatenate(embeddings)

    def _read(self, rows: Sequence, task: str | None, is_document: bool, start: int, number: int) -> list[Piece]:
        try:
            return self._pieces(_make_content(rows[start + number], task, is_document))
        except (MediaError, LimitError) as error:
            raise type(error)(f"row {start + number}: {error}") from error

    def _pieces(self, content: Sequence[Part]) -> list[Piece]:
        preprocessor = self.embedder.preprocessor
        pieces: list[Piece] = []
        for part in content:
            match part:
                case Text(text):
                    pieces += make_pieces((Text(text[:MAX_CHARACTERS]),), preprocessor)
                case Audio(data):
                    pieces += cut_to_pieces(AUDIO, decode_audio(data, cut=True), preprocessor)
                case _:
                    pieces += make_pieces((part,), preprocessor, self.patches)
        room = MAX_TOKENS - num_tokens(
            [piece for piece in pieces if not isinstance(piece, TextPiece)], preprocessor.tokenizer
        )
        return truncate_text(pieces, room)

    def index(
        self, corpus: datasets.Dataset, *, encode_kwargs: Mapping, num_proc: int | None = None, **about: Any
    ) -> None:
        """Embed a corpus."""
        self.names = list(corpus["id"])
        self.corpus = self._encode(corpus, PromptType.document, about)

    def search(
        self,
        queries: datasets.Dataset,
        *,
        top_k: int,
        encode_kwargs: Mapping,
        top_ranked: Mapping[str, list[str]] | None = None,
        num_proc: int | None = None,
        **about: Any,
    ) -> dict[str, dict[str, float]]:
        """Find the best `top_k` documents of every query by exact cosine, among `top_ranked` where it is given."""
        vectors = self._encode(queries, PromptType.query, about)
        names = list(queries["id"])
        if top_ranked is not None:
            index_of = {name: i for i, name in enumerate(self.names)}
            results = {}
            for name, vector in zip(names, vectors, strict=True):
                documents = top_ranked.get(name, [])
                rows = [index_of[document] for document in documents]
                scores = self.corpus[rows] @ vector if rows else np.zeros(0)
                best = np.argsort(-scores, kind="stable")[:top_k]
                results[name] = {documents[i]: float(scores[i]) for i in best}
            return results
        scores, indices = search_index(vectors, self.corpus, top_k)
        return {
            name: {self.names[j]: float(value) for j, value in zip(row, values, strict=True)}
            for name, row, values in zip(names, indices.tolist(), scores.tolist(), strict=True)
        }

    def _encode(self, data: datasets.Dataset, prompt_type: PromptType, about: Mapping[str, Any]) -> np.ndarray:
        loader = create_dataloader(
            _without_decoding(data), task_metadata=about["task_metadata"], prompt_type=prompt_type
        )
        return self.encode(loader, prompt_type=prompt_type, **about)


search_index = top_k  # mteb's protocol has an argument named top_k


def _without_decoding(data: datasets.Dataset) -> datasets.Dataset:
    """The dataset with media as file bytes."""
    for name, feature in data.features.items():
        if isinstance(feature, datasets.Image | datasets.Audio | datasets.Video):
            data = data.cast_column(name, dataclasses.replace(feature, decode=False))
    return data


def _get_rows(data: Any) -> Sequence[Mapping[str, Any]]:
    """The rows of a loader's dataset, media as file bytes; for some tasks mteb has a plain list of images."""
    return _without_decoding(data) if isinstance(data, datasets.Dataset) else data


def _make_content(row: Mapping[str, Any], task: str | None, is_document: bool) -> list[Part]:
    """The parts of a row: text, images, audio, video, in the order of mteb's entry for Gemini Embedding 2."""
    parts: list[Part] = []
    if row.get("text") is not None:
        content: tuple[Part, ...] = (Text(row["text"]),)
        if is_document:
            content = prompts.as_document((Text(row.get("body") or row["text"]),), row.get("title") or "none")
        elif task is not None:
            content = prompts.as_query(content, task)
        parts += content
    for modality in (IMAGE, AUDIO, VIDEO):
        values = row.get(modality.name)
        values = values if isinstance(values, list) else [] if values is None else [values]
        parts += [_make_part(modality, value) for value in values[: modality.max_parts]]
    if not parts:
        raise ValueError(f"a row without text or media; its columns are {', '.join(row)}")
    return parts


def _make_part(modality: Modality, value: Any) -> Any:
    """Make a part of a dataset's cell. Raises ValueError for an unknown form."""
    match value:
        case {"bytes": bytes(data)}:
            return modality.part(data)
        case {"path": str(path)}:
            with open(path, "rb") as file:
                return modality.part(file.read())
        case {"array": samples, "sampling_rate": rate}:
            samples = np.asarray(samples, np.float32)
            return to_part((samples.mean(axis=0) if samples.ndim > 1 else samples, int(rate)))
        case Pillow.Image():
            return to_part(value)
    raise ValueError(f"unknown form of {modality.name}: {type(value).__name__}")
