"""Small random GGUF files, written by llama.cpp's own package: a Gemma 3 or an EmbeddingGemma, and its tokenizer."""

import gguf
import numpy as np

TYPES = {"normal": 1, "unknown": 2, "control": 3, "user": 4, "byte": 6}
CONTROL = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<unused{i}>" for i in range(6))]
USER = ["\n", "\n\n", "  ", "   ", "    ", "<b>", "\t", "<start_of_image>", "<end_of_image>"]
WORDS = "in the capital of Germany is Berlin great größer def return x = 42 straße ab abab aabb ba bab"
SIZES = {"layers": 8, "width": 64, "hidden": 96, "heads": 4, "kv_heads": 2, "head_dim": 32, "window": 6, "context": 64}


def make_vocabulary(seed=0):
    """(tokens, scores, types): Gemma's order, every part of the words as a piece, scores that fall with the id."""
    rng = np.random.default_rng(seed)
    words = [part for word in WORDS.split() for part in (word, "▁" + word)]
    parts = {word[i:j] for word in words for i in range(len(word)) for j in range(i + 1, len(word) + 1)}
    parts = sorted(parts - set(USER))
    rng.shuffle(parts)
    tokens = [(token, -1000.0, "control") for token in CONTROL]
    tokens += [(token, -1000.0, "user") for token in USER]  # as llama.cpp's converter writes them
    tokens += [(f"<0x{byte:02X}>", 0.0, "byte") for byte in range(256)]
    long_first = [part for part in parts if len(part) > 1] + [part for part in parts if len(part) == 1]
    tokens += [(part, -float(rank), "normal") for rank, part in enumerate(long_first)]
    names, scores, types = zip(*tokens, strict=True)
    return list(names), list(scores), [TYPES[name] for name in types]


def make_tensors(vocab_size, seed=0, *, layers, width, hidden, heads, kv_heads, head_dim, **_):
    """GGUF name -> f32 values; norms around 1, as GGUF has them."""
    rng = np.random.default_rng(seed)
    shapes = {"token_embd": (vocab_size, width), "output_norm": (width,)}
    for layer in range(layers):
        block = {
            "attn_norm": (width,),
            "attn_q": (heads * head_dim, width),
            "attn_k": (kv_heads * head_dim, width),
            "attn_v": (kv_heads * head_dim, width),
            "attn_q_norm": (head_dim,),
            "attn_k_norm": (head_dim,),
            "attn_output": (width, heads * head_dim),
            "post_attention_norm": (width,),
            "ffn_norm": (width,),
            "ffn_gate": (hidden, width),
            "ffn_up": (hidden, width),
            "ffn_down": (width, hidden),
            "post_ffw_norm": (width,),
        }
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    values = {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    return {f"{name}.weight": value + ("norm" in name) for name, value in values.items()}


def make_fields(arch="gemma3", *, layers, width, hidden, heads, kv_heads, head_dim, window, context):
    tokens, scores, types = make_vocabulary()
    ids = {"bos": 2, "eos": 1, "unknown": 3, "padding": 0}
    return {
        f"{arch}.context_length": context,
        f"{arch}.embedding_length": width,
        f"{arch}.block_count": layers,
        f"{arch}.feed_forward_length": hidden,
        f"{arch}.attention.head_count": heads,
        f"{arch}.attention.head_count_kv": kv_heads,
        f"{arch}.attention.key_length": head_dim,
        f"{arch}.attention.value_length": head_dim,
        f"{arch}.attention.layer_norm_rms_epsilon": 1e-6,
        f"{arch}.attention.sliding_window": window,
        f"{arch}.rope.freq_base": 1e6,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": types,
        **{f"tokenizer.ggml.{name}_token_id": number for name, number in ids.items()},
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
    }


def write_gguf(path, fields=None, tensors=None, arch="gemma3", quantization="F32", endian=gguf.GGUFEndian.LITTLE):
    """Write a file; matrices are quantized, norms never are, as llama.cpp does it. A field of None is left out."""
    fields = make_fields(arch, **SIZES) | (fields or {})
    tensors = make_tensors(len(fields["tokenizer.ggml.tokens"]), **SIZES) if tensors is None else tensors
    writer = gguf.GGUFWriter(path, arch, endianess=endian)
    for name, value in fields.items():
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        elif value is not None:
            writer.add_array(name, value)
    for name, value in tensors.items():
        chosen = gguf.GGMLQuantizationType[quantization if value.ndim == 2 else "F32"]
        if value.dtype == np.float32:
            writer.add_tensor(name, gguf.quantize(value, chosen), raw_dtype=chosen)
        else:
            writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
