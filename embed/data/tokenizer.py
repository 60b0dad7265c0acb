"""Text to token ids, by a published model's tokenizer.json or a small tokenizer trained on the toy corpora."""

import hashlib
import os
from collections.abc import Iterable

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from embed.batch import PAD_ID
from embed.distributed import storage

# Names and order of the Gemma 4 family; padding is 0.
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<|image>", "<|image|>", "<image|>", "<|audio>", "<|audio|>", "<audio|>")
VIDEO = "<|video|>"


class Tokenizer:
    """Text to ids, and the ids of the special tokens around media and in place of soft tokens.

    `prefix` and `suffix` are the ids that the file itself puts before and after a text, usually <bos> and <eos>.
    """

    def __init__(self, json: str, source: str = "the tokenizer"):
        """Raises ValueError, naming `source`, where `json` is not a tokenizer file or lacks a special token."""
        try:
            self.backend = Backend.from_str(json)
        except Exception as error:  # the library raises bare Exception for every malformed file
            raise ValueError(f"{source}: not a tokenizer.json: {error}") from error
        self.json = json
        self.source = source
        self.hash = hashlib.sha256(json.encode()).hexdigest()[:16]
        self.backend.no_truncation()
        self.backend.no_padding()
        ids = self.backend.encode("a").ids
        text_ids = self.backend.encode("a", add_special_tokens=False).ids
        start = next(i for i in range(len(ids)) if ids[i : i + len(text_ids)] == text_ids)
        self.prefix, self.suffix = ids[:start], ids[start + len(text_ids) :]
        if self._id("<pad>") != PAD_ID:
            raise ValueError(f"{source}: <pad> has id {self._id('<pad>')}, but must have {PAD_ID}, as in Gemma's")
        self.image = self._id("<|image>"), self._id("<|image|>"), self._id("<image|>")  # begin, placeholder, end
        self.video = self.image[0], self._id(VIDEO), self.image[2]
        self.audio = self._id("<|audio>"), self._id("<|audio|>"), self._id("<audio|>")
        # From now on, the name of a special token in a user's text is ordinary text.
        self.backend.encode_special_tokens = True

    def _id(self, name: str) -> int:
        number = self.backend.token_to_id(name)
        if number is None:
            raise ValueError(f"{self.source}: no {name} token; required: {', '.join((*SPECIAL, VIDEO))}")
        return number

    @property
    def size(self) -> int:
        return self.backend.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Encode `text` without prefix and suffix. Raises ValueError for half a surrogate pair."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"text is not valid Unicode: character {error.start} is half a surrogate pair") from error
        return self.backend.encode(text, add_special_tokens=False).ids

    def check_rows(self, rows: int) -> None:
        """Raise ValueError where an input may hold an id beyond the `rows` of an embedding table.

        A lookup would clamp it to the last row. Special tokens that are neither added to texts nor used for media do
        not count: their names in a text are ordinary text.
        """
        special = {number for number, token in self.backend.get_added_tokens_decoder().items() if token.special}
        unused = special - {*self.prefix, *self.suffix, *self.image, *self.video, *self.audio}
        ids = {number: token for token, number in self.backend.get_vocab().items() if number not in unused}
        largest = max(ids)
        if largest >= rows:
            count = sum(number >= rows for number in ids)
            raise ValueError(
                f"{self.source}: {ids[largest]!r} has id {largest:,}, the largest of {count:,} that are beyond the "
                f"{rows:,} rows of the model's embedding table: use the model's own tokenizer.json"
            )

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Tokenizer":
        """Load a tokenizer.json. Raises ValueError, naming the file, where it is not one."""
        try:
            return cls(storage.path(path).read_text(encoding="utf-8"), str(path))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not a tokenizer.json: {error}") from error

    def save(self, path: str | os.PathLike) -> None:
        """Write tokenizer.json, complete or not at all."""
        with storage.atomic_write(storage.path(path)) as file:
            file.write_text(self.json, encoding="utf-8")


def train_tokenizer(texts: Iterable[str], size: int) -> Tokenizer:
    """Train a byte-fallback BPE of at most `size` ids on `texts`; every string has an encoding."""
    backend = Backend(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.NFC()
    split = [
        pre_tokenizers.Metaspace(prepend_scheme="never"),
        pre_tokenizers.Punctuation(),
        pre_tokenizers.Digits(True),
    ]
    backend.pre_tokenizer = pre_tokenizers.Sequence(split)
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="never")])
    special = [*SPECIAL, VIDEO, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    ids = [(name, backend.token_to_id(name)) for name in ("<bos>", "<eos>")]
    backend.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=ids)
    return Tokenizer(backend.to_str())
