"""Content -> pieces of an input, by a model's tokenizer and media format."""

import collections
import dataclasses
import os
from collections.abc import Iterable
from typing import Any

from embed.batch import MediaFormat
from embed.data import prompts
from embed.data.media.decode import SAMPLE_RATE
from embed.data.modalities import MODALITIES, Content, Modality, Part, modality_of, value_of
from embed.data.pieces import LimitError, Piece
from embed.data.tokenizer import Tokenizer
from embed.model.config import Architecture


@dataclasses.dataclass(frozen=True)
class Preprocessor:
    """How content becomes a row of tokens, patches and audio frames; it is saved with the weights."""

    tokenizer: Tokenizer
    media: MediaFormat

    @classmethod
    def load(cls, path: str | os.PathLike, arch: Architecture) -> "Preprocessor":
        """Make the preprocessor of a model, with the tokenizer in a file.

        Raises ValueError, naming the file, where it is not a tokenizer or has more ids than the model's vocabulary.
        """
        tokenizer = Tokenizer.load(path)
        tokenizer.check_rows(arch.vocab_size)
        return cls(tokenizer, arch.media)

    def input_spec(self) -> dict[str, Any]:
        """What an encoder trained with this preprocessor expects, as plain JSON."""
        return {
            "tokenizer": self.tokenizer.hash,
            "media": dataclasses.asdict(self.media),
            "sample_rate": SAMPLE_RATE,
            "frames_per_second": 1,
            "query_prompt": prompts.QUERY,
            "document_prompt": prompts.DOCUMENT,
        }


def make_pieces(content: Content, preprocessor: Preprocessor, patches: int | None = None) -> list[Piece]:
    """Decode every part of a content and cut it to soft tokens, in order.

    `patches` is the number of soft tokens per image or page, by default the model's; a video frame gets the model's
    number, or `patches` where that is smaller. Raises MediaError for what cannot be decoded, and LimitError for what is
    over the limits or of a modality that the model does not take.
    """
    check_part_counts(content)
    pieces: list[Piece] = []
    for part in content:
        modality = modality_of(part)
        _check_supported(modality, preprocessor.media)
        pieces += cut_to_pieces(modality, modality.decode(value_of(part)), preprocessor, patches)
    return pieces


def cut_to_pieces(
    modality: Modality, decoded: Any, preprocessor: Preprocessor, patches: int | None = None
) -> list[Piece]:
    """Cut what the modality's decoder returns to soft tokens. Arguments and errors as of `make_pieces`."""
    media = preprocessor.media
    _check_supported(modality, media)
    if patches:
        media = dataclasses.replace(media, image_patches=patches, frame_patches=min(media.frame_patches, patches))
    return modality.pieces(decoded, preprocessor.tokenizer, media)


def check_part_counts(parts: Iterable[Part]) -> None:
    """Raise LimitError where an input has more parts of a modality than it may have."""
    counts = collections.Counter(modality_of(part).name for part in parts)
    for modality in MODALITIES:
        count, limit = counts[modality.name], modality.max_parts
        if limit is not None and count > limit:
            raise LimitError(f"{count} {modality.plural} in one input: at most {limit}; embed them separately")


def _check_supported(modality: Modality, media: MediaFormat) -> None:
    if not modality.is_supported(media):
        raise LimitError(f"this model takes no {modality.plural}: leave it out, or use a model that takes it")
