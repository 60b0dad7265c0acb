"""What a baseline does: it ranks texts by a text."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from embed.data.modalities import Audio, Content, Part, Text, modality_of, value_of

Transcribe = Callable[[bytes], str]  # encoded audio -> its words


class Texts(NamedTuple):
    """One side of a dataset. A side keeps its role in both directions, as a checkpoint's prompts do."""

    texts: Sequence[str]
    is_document: bool


class Retriever(Protocol):
    """Ranks texts by a text."""

    @property
    def width(self) -> int:
        """The dimensions of its vectors; 0 where it has none."""

    @property
    def reads(self) -> str:
        """How much of a text it reads."""

    def rank(self, queries: Texts, corpus: Texts, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Rank the candidates of every query: (scores f32[q,k'], indices i32[q,k']), best first, k' = min(k, n).

        Ties by lower index; -1 with score -inf where no further candidate is retrieved.
        """


class UnreadableError(ValueError):
    """A content that a baseline cannot read; the message names the modality."""


def read_texts(contents: Sequence[Content], transcribe: Transcribe | None) -> list[str]:
    """Read contents as texts: their parts line by line, audio as its transcript.

    Raises UnreadableError, before anything is transcribed, for other media, and for audio where `transcribe` is None.
    """
    for part in (part for content in contents for part in content):
        if not isinstance(part, Text) and (transcribe is None or not isinstance(part, Audio)):
            raise UnreadableError(modality_of(part).plural)

    def read(part: Part) -> str:
        if transcribe is not None and isinstance(part, Audio):
            return transcribe(part.data)
        return str(value_of(part))

    return ["\n".join(map(read, content)) for content in contents]
