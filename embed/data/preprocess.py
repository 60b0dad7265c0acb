"""Content -> pieces of an input, by a model's tokenizer and media format."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from embed.batch import MediaFormat
from embed.data import prompts
from embed.data.media.decode import SAMPLE_RATE
from embed.data.modalities import MODALITIES, Content, Modality, modality_of, value_of
from embed.data.pieces import LimitError, Piece
from embed.data.tokenizer import Tokenizer
from embed.model.presets import Architecture


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
        tokenizer.check_rows(arch.vocabulary)
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
    check_part_counts([modality_of(part) for part in content])
    media = preprocessor.media
    if patches:
        media = dataclasses.replace(media, image_patches=patches, frame_patches=min(media.frame_patches, patches))
    pieces: list[Piece] = []
    for part in content:
        modality = modality_of(part)
        check_supported(modality, media)
        pieces += modality.pieces(modality.decode(value_of(part)), preprocessor.tokenizer, media)
    return pieces


def check_part_counts(modalities: Sequence[Modality]) -> None:
    """Raise LimitError where an input has more parts of a modality than it may have."""
    for modality in MODALITIES:
        count = sum(other is modality for other in modalities)
        if modality.max_parts is not None and count > modality.max_parts:
            raise LimitError(
                f"{count} {modality.plural} in one input: at most {modality.max_parts}; embed them separately"
            )


def check_supported(modality: Modality, media: MediaFormat) -> None:
    """Raise LimitError where the model does not take the modality."""
    if not modality.is_supported(media):
        raise LimitError(f"this model takes no {modality.plural}: leave it out, or use a model that takes it")
