"""BM25 over words of every script, by bm25s (extra [baselines])."""

import functools
import logging
import re
import sys
import unicodedata
from typing import Any

import numpy as np

from embed.eval.baselines.retriever import Texts

# Scripts written without spaces between words: Thai to Lao, Myanmar, Khmer, kana, Han.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
UNSPACED += "\U00020000-\U0003ffff"
CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")


class Bm25:
    """Lucene's BM25 (k1 1.5, b 0.75) without stop words or stemming, so that every language is treated alike.

    A candidate that shares no token with the query is not retrieved.
    """

    width = 0  # it has no vectors
    reads = "whole texts"

    def __init__(self) -> None:
        self.bm25s: Any = _import()

    def rank(self, queries: Texts, corpus: Texts, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Rank as `Retriever.rank`."""
        k = min(k, len(corpus.texts))
        scores = np.full((len(queries.texts), k), -np.inf, np.float32)
        indices = np.full((len(queries.texts), k), -1, np.int32)
        documents = [tokenize(text) for text in corpus.texts]
        if not any(documents):
            return scores, indices
        index = self.bm25s.BM25(backend="numpy")
        index.index(documents, show_progress=False)
        for i, text in enumerate(queries.texts):
            tokens = index.get_tokens_ids(tokenize(text))  # those of the corpus
            values = index.get_scores_from_ids(tokens)
            best = np.argsort(-values, kind="stable")[:k]
            best = best[values[best] > 0]
            scores[i, : len(best)] = values[best]
            indices[i, : len(best)] = best
        return scores, indices


def tokenize(text: str) -> list[str]:
    """Split a text into tokens, case-folded and in NFKC: words of letters, marks and digits, and the overlapping
    character pairs of scripts that are written without spaces, as Lucene's CJKAnalyzer does.

    Identifiers of code are split too, at underscores and at capitals as in camelCase.
    """
    tokens = []
    folded = CAMEL_CASE.sub(" ", unicodedata.normalize("NFKC", text)).casefold()
    for match in _pattern().finditer(unicodedata.normalize("NFKC", folded)):
        run = match["unspaced"]
        if run is None or len(run) == 1:
            tokens.append(match[0])
        else:
            tokens += [run[i : i + 2] for i in range(len(run) - 1)]
    return tokens


@functools.cache
def _pattern() -> re.Pattern[str]:
    """A run of an unspaced script, or a word. Python's \\w lacks combining marks, which would split Indic words."""
    characters = map(chr, range(sys.maxunicode + 1))
    marks = "".join(char for char in characters if unicodedata.category(char).startswith("M"))
    return re.compile(rf"(?P<unspaced>[{UNSPACED}]+)|(?:[^\W_{UNSPACED}]|(?![{UNSPACED}])[{marks}])+")


def _import() -> Any:
    try:
        import bm25s
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the baseline bm25 needs the extra [baselines] ({error}): pip install -e '.[baselines]'"
        ) from error
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it logs every index
    return bm25s
