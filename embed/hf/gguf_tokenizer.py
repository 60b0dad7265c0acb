"""The tokenizer of a GGUF file -> tokenizer.json: SentencePiece's BPE with byte fallback, as Gemma's own file has it.

A GGUF file lists pieces, scores and types, but no merges: two pieces merge if together they are a piece, the piece of
the highest score first.
"""

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from embed.hf.fields import HubError
from embed.hf.gguf_file import GGUFFile

NORMAL, CONTROL, USER_DEFINED, BYTE = 1, 3, 4, 6  # token types
SPACE = "▁"
NUM_BYTES = 256


def build_tokenizer(file: GGUFFile) -> Tokenizer:
    """Build the tokenizer of a SentencePiece model. Raises HubError for another one, or missing or wrong fields."""
    if (model := file.get_str("tokenizer.ggml.model")) != "llama":
        raise HubError(f"{file.path}: tokenizer.ggml.model is {model!r}; only SentencePiece ('llama') is implemented")
    if file.get_bool("tokenizer.ggml.add_space_prefix", False):
        raise HubError(f"{file.path}: tokenizer.ggml.add_space_prefix is true, which Gemma's tokenizers do not have")
    tokens, types, scores = _read_vocabulary(file)
    vocab = {token: number for number, token in enumerate(tokens)}
    unknown = tokens[file.get_id("unknown")]
    backend = Tokenizer(
        models.BPE(vocab, make_merges(vocab, types, scores), unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = normalizers.Replace(" ", SPACE)
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    backend.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    # Runs of spaces are left to the merges: added tokens are looked up before a space becomes SPACE.
    added = [
        AddedToken(token, normalized=False, special=token_type == CONTROL)
        for token, token_type in zip(tokens, types, strict=True)
        if token_type in (CONTROL, USER_DEFINED) and token.strip(SPACE)
    ]
    backend.add_tokens(added)
    backend.post_processor = _make_post_processor(file, tokens)
    return backend


def make_merges(vocab: dict[str, int], types: np.ndarray, scores: np.ndarray) -> list[tuple[str, str]]:
    """The pairs of pieces that make a piece, in the order that BPE applies them.

    User-defined pieces come first, since SentencePiece matches them before all others; only runs of spaces get this
    far, the others are added tokens. Control, byte and unused pieces are never made of text. Of the pairs that make
    the same piece, the one with the longest left part comes first.
    """
    user_defined = types == USER_DEFINED
    mergeable = user_defined | (types == NORMAL)
    pieces = list(vocab)
    text_pieces = {pieces[number]: number for number in np.flatnonzero(mergeable)}
    merges = []
    for number in np.lexsort((np.arange(len(pieces)), np.where(user_defined, 0, -scores), ~user_defined)):
        if mergeable[number]:
            piece = pieces[number]
            pairs = ((piece[:end], piece[end:]) for end in range(len(piece) - 1, 0, -1))
            merges += [(left, right) for left, right in pairs if left in text_pieces and right in text_pieces]
    return merges


def _read_vocabulary(file: GGUFFile) -> tuple[list[str], np.ndarray, np.ndarray]:
    """(tokens, types i32[v], scores f32[v]); runs of spaces are spelled as SentencePiece spells them."""
    tokens = file.get_tokens()
    types = file.get("tokenizer.ggml.token_type", lambda x: _is_numeric(x, len(tokens)), "a type per token")
    scores = file.get("tokenizer.ggml.scores", lambda x: _is_numeric(x, len(tokens)), "a score per token")
    if not np.isfinite(scores).all():
        raise HubError(f"{file.path}: tokenizer.ggml.scores holds NaN or infinity")
    # llama.cpp's converter writes spaces in user-defined tokens, which it looks up before it replaces them.
    tokens = [
        token.replace(" ", SPACE) if token_type == USER_DEFINED else token
        for token, token_type in zip(tokens, types, strict=True)
    ]
    if len(set(tokens)) < len(tokens):
        raise HubError(f"{file.path}: tokenizer.ggml.tokens lists a token twice")
    if missing := {f"<0x{byte:02X}>" for byte in range(NUM_BYTES)} - set(tokens):
        raise HubError(f"{file.path}: tokenizer.ggml.tokens lacks {min(missing)}: not a tokenizer with byte fallback")
    return tokens, types, scores


def _is_numeric(value: object, length: int) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "iuf" and len(value) == length


def _make_post_processor(file: GGUFFile, tokens: list[str]) -> processors.TemplateProcessing:
    """What the file adds around a text: <bos> unless it says not to, <eos> if it says so."""
    bos = file.get_id("bos")
    eos = file.get_id("eos")
    prefix = [tokens[bos]] if file.get_bool("tokenizer.ggml.add_bos_token", True) else []
    suffix = [tokens[eos]] if file.get_bool("tokenizer.ggml.add_eos_token", False) else []
    special = [(tokens[number], number) for number in (bos, eos)]
    pair = [*prefix, "$A", *suffix, *(f"{token}:1" for token in prefix), "$B:1", *(f"{token}:1" for token in suffix)]
    return processors.TemplateProcessing(single=[*prefix, "$A", *suffix], pair=pair, special_tokens=special)
