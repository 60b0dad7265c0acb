"""Text to token ids, by a published model's tokenizer.json or a small tokenizer trained on the toy corpora."""

import dataclasses
import hashlib
import os
from collections.abc import Iterable

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from embed.batch import PAD_ID
from embed.distributed import storage


@dataclasses.dataclass(frozen=True)
class MediaTokens:
    """The names of the special tokens of each modality: before it, in place of its soft tokens, after it."""

    image: tuple[str, str, str]
    video: tuple[str, str, str]  # around and in each frame
    audio: tuple[str, str, str]


GEMMA4_TOKENS = MediaTokens(
    ("<|image>", "<|image|>", "<image|>"), ("<|image>", "<|video|>", "<image|>"), ("<|audio>", "<|audio|>", "<audio|>")
)
# Gemma 3 has a beginning and an end of an image, but <image_soft_token> has no row in the tables of its text models.
GEMMA3_TOKENS = MediaTokens(
    ("<start_of_image>", "<unused0>", "<end_of_image>"),
    ("<start_of_image>", "<unused1>", "<end_of_image>"),
    ("<unused2>", "<unused3>", "<unused4>"),
)
TEXT_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>")  # Gemma's names and order
# What a tokenizer that is trained here begins with.
SPECIAL = (*TEXT_TOKENS, *GEMMA4_TOKENS.image, *GEMMA4_TOKENS.audio, GEMMA4_TOKENS.video[1])


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
        is_gemma3 = self.backend.token_to_id(GEMMA3_TOKENS.image[0]) is not None
        self.names = GEMMA3_TOKENS if is_gemma3 else GEMMA4_TOKENS
        if self._id("<pad>") != PAD_ID:
            raise ValueError(f"{source}: <pad> has id {self._id('<pad>')}, but must have {PAD_ID}, as in Gemma's")
        self.image = self._ids(self.names.image)  # begin, placeholder, end
        self.video = self._ids(self.names.video)
        self.audio = self._ids(self.names.audio)
        # From now on, the name of a special token in a user's text is ordinary text. Gemma 3's files do not list those
        # around an image as special.
        self.backend.add_special_tokens([*self.names.image, *self.names.video, *self.names.audio])
        self.backend.encode_special_tokens = True

    def _id(self, name: str) -> int:
        number = self.backend.token_to_id(name)
        if number is None:
            names = dict.fromkeys((*TEXT_TOKENS, *self.names.image, *self.names.video, *self.names.audio))
            raise ValueError(f"{self.source}: no {name} token; required: {', '.join(names)}")
        return number

    def _ids(self, names: tuple[str, str, str]) -> tuple[int, int, int]:
        begin, placeholder, end = names
        return self._id(begin), self._id(placeholder), self._id(end)

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
    special = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    ids = [(name, backend.token_to_id(name)) for name in ("<bos>", "<eos>")]
    backend.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=ids)
    return Tokenizer(backend.to_str())
