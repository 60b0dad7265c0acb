"""The tokenizer of a GGUF file: SentencePiece's algorithm, and the same ids as transformers' own conversion."""

import itertools
import random

import pytest

pytest.importorskip("gguf", reason="needs the extra [gguf]")

from gguf_model import CONTROL, TYPES, USER, make_vocabulary, write_gguf

from embed.data.tokenizer import Tokenizer
from embed.hf.fields import HubError
from embed.hf.gguf_file import GGUFFile
from embed.hf.gguf_tokenizer import build_tokenizer

TEXTS = [
    "the capital of Germany is Berlin",
    "def f(x):\n    return x\n\n\tx = 42",
    "größer als straße, 日本語 😀 e\u0301",
    "<b>x<eos> <unused3><start_of_image><0x41>",
    "",
    " ",
    "   a  ab aab abab",
]


def random_texts(count, seed=0):
    rng = random.Random(seed)
    letters = ["a", "b", "ab", "aa", " ", "the", "in", "ß", "\n", "\t", "<b>", "x", "é", "中", "\U0001f600", "\x00"]
    return ["".join(rng.choice(letters) for _ in range(rng.randrange(1, 30))) for _ in range(count)]


def encode_reference(text):
    """SentencePiece's algorithm: user-defined pieces first, then the pair whose piece has the highest score."""
    tokens, scores, types = make_vocabulary()
    tokens = [
        token.replace(" ", "▁") if kind == TYPES["user"] else token for token, kind in zip(tokens, types, strict=True)
    ]
    ids = {token: number for number, token in enumerate(tokens)}
    normal = {token: score for token, score, kind in zip(tokens, scores, types, strict=True) if kind == TYPES["normal"]}
    users = sorted(
        (token for token, kind in zip(tokens, types, strict=True) if kind == TYPES["user"]), key=len, reverse=True
    )
    text = text.replace(" ", "▁")
    symbols: list[str] = []
    while text:
        symbol = next((user for user in users if text.startswith(user)), text[0])
        symbols.append(symbol)
        text = text[len(symbol) :]
    while True:
        pairs = [
            (-normal[left + right], place)
            for place, (left, right) in enumerate(itertools.pairwise(symbols))
            if left + right in normal and left not in users and right not in users
        ]
        if not pairs:
            break
        _, place = min(pairs)
        symbols[place : place + 2] = ["".join(symbols[place : place + 2])]
    return [
        number
        for symbol in symbols
        for number in ([ids[symbol]] if symbol in ids else [ids[f"<0x{byte:02X}>"] for byte in symbol.encode()])
    ]


@pytest.fixture
def path(tmp_path):
    return write_gguf(tmp_path / "x.gguf")


def test_ids_are_sentencepieces(path):
    backend = build_tokenizer(GGUFFile(path))
    texts = [text for text in random_texts(1000) if " " * 5 not in text]  # the longest run of spaces is 4
    assert len(texts) > 900
    for text in texts:
        assert backend.encode(text, add_special_tokens=False).ids == encode_reference(text), text


def test_ids_are_those_of_transformers(path):
    transformers = pytest.importorskip("transformers", reason="needs the extra [hf]")
    pytest.importorskip("torch", reason="needs the extra [hf]")
    theirs = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    backend = build_tokenizer(GGUFFile(path))
    for text in [*TEXTS, *random_texts(500, seed=1), "▁▁a ▁", " " * 40 + "x"]:
        assert backend.encode(text).ids == theirs(text)["input_ids"], text


def test_every_text_comes_back(path):
    backend = build_tokenizer(GGUFFile(path))
    rng = random.Random(0)
    unicode = ["".join(chr(rng.randrange(1, 0xD800)) for _ in range(20)).replace("▁", "_") for _ in range(200)]
    for text in [*TEXTS, *random_texts(200), *unicode]:
        assert backend.decode(backend.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize(("bos", "eos"), [(True, False), (True, True), (False, False), (None, None)])
def test_a_text_begins_and_ends_as_the_file_says(tmp_path, bos, eos):
    fields = {"tokenizer.ggml.add_bos_token": bos, "tokenizer.ggml.add_eos_token": eos}
    backend = build_tokenizer(GGUFFile(write_gguf(tmp_path / "x.gguf", fields)))
    bare = backend.encode("the", add_special_tokens=False).ids
    prefix = [] if bos is False else [2]
    suffix = [1] if eos else []
    assert backend.encode("the").ids == [*prefix, *bare, *suffix]
    assert backend.encode("the", "the").ids == [*prefix, *bare, *suffix] * 2


def test_control_tokens_are_special_and_never_made_of_a_users_text(path):
    """Our class reads the tokenizer; the names of control, media and byte tokens in a text are text."""
    tokenizer = Tokenizer(build_tokenizer(GGUFFile(path)).to_str())
    added = tokenizer.backend.get_added_tokens_decoder()
    assert {token.content for token in added.values() if token.special} >= set(CONTROL)
    assert {token.content for token in added.values()} == {*CONTROL, *USER} - {"  ", "   ", "    "}
    tokens, _, types = make_vocabulary()
    assert (tokenizer.size, tokenizer.prefix, tokenizer.suffix) == (len(tokens), [2], [])
    bytes_ = {number for number, kind in enumerate(types) if kind == TYPES["byte"]}
    media = {*tokenizer.image, *tokenizer.video, *tokenizer.audio}
    for name in (*CONTROL, "<start_of_image>", "<end_of_image>"):
        ids = tokenizer.encode(f"a{name}b")
        assert not media.intersection(ids) and not set(range(len(CONTROL))).intersection(ids), name
        assert tokenizer.backend.decode(ids) == f"a{name}b"
    assert tokenizer.backend.token_to_id("<0x41>") in bytes_
    assert tokenizer.backend.token_to_id("<0x41>") not in tokenizer.encode("<0x41>")


def test_a_vocabulary_that_is_not_sentencepieces_is_refused(tmp_path):
    tokens, scores, _ = make_vocabulary()
    twice = [*tokens[:-1], tokens[-2]]
    with pytest.raises(HubError, match="lists a token twice"):
        build_tokenizer(GGUFFile(write_gguf(tmp_path / "x.gguf", {"tokenizer.ggml.tokens": twice})))
    renamed = ["<byte>" if token == "<0x41>" else token for token in tokens]
    with pytest.raises(HubError, match="tokens lacks <0x41>"):
        build_tokenizer(GGUFFile(write_gguf(tmp_path / "y.gguf", {"tokenizer.ggml.tokens": renamed})))
    infinite = [*scores[:-1], float("inf")]
    with pytest.raises(HubError, match="scores holds NaN or infinity"):
        build_tokenizer(GGUFFile(write_gguf(tmp_path / "z.gguf", {"tokenizer.ggml.scores": infinite})))
