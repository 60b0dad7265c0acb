"""What a baseline does: it ranks texts by a text."""

import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from tqdm import tqdm

from embed.data.media.errors import MediaError
from embed.data.modalities import Audio, Content, Part, Text, modality_of, value_of
from embed.distributed import hosts

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


def read_texts(contents: Sequence[Content], name: Callable[[int], str], transcribe: Transcribe | None) -> list[str]:
    """Read contents as texts: their parts line by line, audio as its transcript.

    Raises UnreadableError, before anything is transcribed, for other media, and for audio where `transcribe` is None;
    MediaError for audio that cannot be decoded, naming content i as `name(i)`.
    """
    for part in (part for content in contents for part in content):
        if not isinstance(part, Text) and (transcribe is None or not isinstance(part, Audio)):
            raise UnreadableError(modality_of(part).plural)
    has_audio = any(isinstance(part, Audio) for content in contents for part in content)
    is_hidden = not has_audio or not sys.stderr.isatty() or not hosts.is_primary()
    texts = []
    for i, content in enumerate(tqdm(contents, "transcripts", unit="item", disable=is_hidden)):
        try:
            lines = [_read_part(part, transcribe) for part in content]
        except MediaError as error:
            raise MediaError(f"{name(i)}: {error}") from error
        texts.append("\n".join(lines))
    return texts


def _read_part(part: Part, transcribe: Transcribe | None) -> str:
    if isinstance(part, Audio) and transcribe is not None:
        return transcribe(part.data)
    return str(value_of(part))
