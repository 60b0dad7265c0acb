"""Speech recognition by Whisper, through faster-whisper (extra [baselines]): the first half of a cascade."""

import hashlib
import pathlib
from typing import Any

from embed.data.media.decode import decode_audio
from embed.distributed import storage
from embed.eval.baselines.dense import hash_files


class Whisper:
    """Transcribes encoded audio in the language that it detects, by beam search; transcripts are cached by content."""

    def __init__(self, folder: pathlib.Path):
        """Load a CTranslate2 folder. Raises ModuleNotFoundError without faster-whisper, OSError for a missing file."""
        try:
            from faster_whisper import WhisperModel
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"transcribing by Whisper needs the extra [baselines] ({error}): pip install -e '.[baselines]'"
            ) from error
        self.key = hash_files([folder / "model.bin", folder / "tokenizer.json"])
        self.model: Any = WhisperModel(str(folder), local_files_only=True)

    def __call__(self, data: bytes) -> str:
        """Transcribe encoded audio; "" where nothing is recognized. Raises MediaError for anything but audio."""
        digest = hashlib.blake2b(self.key.encode() + data, digest_size=16).hexdigest()
        file = storage.cache() / "transcripts" / f"{digest}.txt"
        if file.exists():
            return file.read_text(encoding="utf-8")
        # At temperature 0 alone: the retries at higher ones are sampled, so that no two runs would agree.
        segments, _ = self.model.transcribe(decode_audio(data), temperature=0.0)
        text = " ".join(segment.text.strip() for segment in segments)
        file.parent.mkdir(parents=True, exist_ok=True)
        with storage.atomic_write(file) as partial:
            partial.write_text(text, encoding="utf-8")
        return text
