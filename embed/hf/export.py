"""A model -> a folder that transformers and sentence-transformers load as it is.

An EmbeddingGemma 2 becomes that class, with its projection inside; the other models become their own class, and the
projection a module after the pooling. What transformers' text class of Gemma 3 lacks, the maps of images and audio, is
kept in media/ for embed alone.
"""

import dataclasses
import json
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
from einops import rearrange
from flax.traverse_util import flatten_dict
from safetensors import SafetensorError
from safetensors.numpy import save_file

from embed.data import prompts
from embed.data.media.video import MAX_FRAMES
from embed.data.pieces import MAX_TOKENS
from embed.data.tokenizer import TEXT_TOKENS, Tokenizer
from embed.hf.card import exported_modalities, model_card
from embed.hf.config import EARLIER_POOLING_FIELDS, POOLING_MODES, is_embedder
from embed.hf.config_json import make_config_json
from embed.hf.dense import WEIGHT
from embed.hf.fields import HubError
from embed.hf.gemma3 import is_gemma3
from embed.hf.tensors import DENSE, MEDIA, TEXT_PART, HFTensor, hf_tensor
from embed.model.config import Architecture

SHARD = 2 * 10**9  # bytes of a file of weights
SOFT_TOKENS = (70, 140, 280, 560, 1120)  # the budgets that transformers' image processors take
SENTENCE = "sentence_transformers"
# In the order the parts came, as we train; the processor puts soft tokens where the placeholders are.
TEMPLATE = (
    "{%- for message in messages -%}{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}"
    "{%- for part in message['content'] -%}{%- if part['type'] == 'text' -%}{{ part['text'] }}{%- else -%}"
    "{{ '<|' ~ part['type'] ~ '|>' }}{%- endif -%}{%- endfor -%}{%- endif -%}{%- endfor -%}"
)


def export(
    folder: str | os.PathLike,
    arch: Architecture,
    tokenizer: Tokenizer,
    load_params: Callable[[], dict],
    *,
    dtype: str = "float32",
    name: str = "",
    metadata: dict[str, Any] | None = None,
) -> None:
    """Write a model in the Hugging Face layout: weights, tokenizer, processors, pooling, and a model card.

    `load_params` returns the parameters as numpy arrays; it is called when all else is written. `dtype` float32 keeps
    every bit, bfloat16 halves the size. `name` and `metadata` (a checkpoint's) go into the card and embed.json. The
    folder appears when all of it is written; until then it grows in NAME.partial-... beside it, which only a killed
    process leaves behind. Raises HubError for an architecture that the layout cannot express, FileExistsError where
    `folder` has files in it, OSError where it cannot be written.
    """
    folder = pathlib.Path(folder).resolve()
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; give a new folder")
    metadata = metadata or {}
    files = documents(arch, tokenizer)
    files["embed.json"] = {
        "matryoshka_dims": arch.matryoshka_dims,
        "pooling": arch.pooling,
        "attention": arch.attention,
        "media": dataclasses.asdict(arch.media),
        "about": metadata,
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        folder.rmdir()  # now, not when all is written: it may be one that cannot be replaced
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.partial-", dir=folder.parent) as partial:
        new = pathlib.Path(partial, folder.name)  # not `partial` itself, which only its owner may read
        new.mkdir()
        for file, content in files.items():
            (new / file).parent.mkdir(exist_ok=True)
            (new / file).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        tokenizer.save(new / "tokenizer.json")
        if not is_gemma3(arch):
            (new / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
        (new / "README.md").write_text(model_card(arch, metadata, name or folder.name), encoding="utf-8")
        write_weights(load_params(), arch, new, np.dtype(dtype))
        new.rename(folder)


def write_weights(params: dict, arch: Architecture, folder: pathlib.Path, dtype: np.dtype) -> None:
    """Write every leaf as its tensors: safetensors files of at most 2 GB and an index, one file in memory at a time."""
    embedder = is_embedder(arch)
    leaves = [(value, hf_tensor(path, arch, embedder)) for path, value in flatten_dict(params).items()]
    prefix = TEXT_PART if is_gemma3(arch) else ""  # the text class alone names its tensors without it
    tensors = [
        (str(name).removeprefix(prefix), value, index, tensor)
        for value, tensor in leaves
        for index, name in np.ndenumerate(tensor.names)
    ]
    inside = [entry for entry in tensors if not entry[0].startswith((DENSE, MEDIA))]
    size = sum(np.size(value[index]) for _, value, index, _ in inside) * dtype.itemsize
    shards: list[list] = [[]]
    room = SHARD
    for entry in sorted(inside, key=lambda entry: entry[0]):
        bytes_ = np.size(entry[1][entry[2]]) * dtype.itemsize
        if shards[-1] and bytes_ > room:
            shards.append([])
            room = SHARD
        shards[-1].append(entry)
        room -= bytes_

    def to_stored(value: np.ndarray, index: tuple, tensor: HFTensor) -> np.ndarray:
        stored = rearrange(np.asarray(value[index]), tensor.inverse)
        return np.array(stored - tensor.offset if tensor.offset else stored, dtype, order="C")

    names: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        _save({n: to_stored(*rest) for n, *rest in shard}, folder / name)
        names |= {n: name for n, *_ in shard}
    if len(shards) > 1:
        listing = {"metadata": {"total_size": size}, "weight_map": names}
        (folder / "model.safetensors.index.json").write_text(json.dumps(listing, indent=2) + "\n")
    for n, *rest in tensors:
        if n == DENSE:
            _save({WEIGHT: to_stored(*rest)}, folder / "2_Dense" / "model.safetensors")
    media = {n.removeprefix(MEDIA): to_stored(*rest) for n, *rest in tensors if n.startswith(MEDIA)}
    if media:
        (folder / "media").mkdir()
        _save(media, folder / "media" / "model.safetensors")


def _save(tensors: dict[str, np.ndarray], file: pathlib.Path) -> None:
    file.touch()
    mode = file.stat().st_mode  # as the umask has it; save_file puts a file for its owner alone in its place
    try:
        save_file(tensors, file, {"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{file} cannot be written: {error}") from error
    file.chmod(mode)


def documents(arch: Architecture, tokenizer: Tokenizer) -> dict[str, dict | list]:
    """Every JSON file of the folder by its name."""
    tokens = {
        "boi_token_id": tokenizer.image[0],
        "image_token_id": tokenizer.image[1],
        "eoi_token_id": tokenizer.image[2],
        "video_token_id": tokenizer.video[1],
        "boa_token_id": tokenizer.audio[0],
        "audio_token_id": tokenizer.audio[1],
        "eoa_token_index": tokenizer.audio[2],
    }
    config = make_config_json(arch, tokens)
    pooled_dim = arch.embed_dim if is_embedder(arch) else arch.d_model
    mode = pooling_mode(arch)
    modules = [
        ("", "base.modules.transformer.Transformer"),
        ("1_Pooling", "sentence_transformer.modules.pooling.Pooling"),
    ]
    files: dict[str, dict | list] = {
        "config.json": config,
        "tokenizer_config.json": _tokenizer_json(arch, tokenizer),
        "sentence_bert_config.json": _inputs_json(arch),
        "1_Pooling/config.json": {
            "embedding_dimension": pooled_dim,
            "pooling_mode": mode,
            # The same as sentence-transformers before version 5 and other readers, such as vLLM, want it.
            "word_embedding_dimension": pooled_dim,
            **{field: theirs == mode for theirs, field in EARLIER_POOLING_FIELDS.items()},
            "include_prompt": True,
        },
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "prompts": PROMPTS,
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    }
    if not is_gemma3(arch):
        files["processor_config.json"] = _processor_json(arch, config["model_type"])
    if not is_embedder(arch):
        modules.append(("2_Dense", "base.modules.dense.Dense"))
        files["2_Dense/config.json"] = {
            "in_features": arch.d_model,
            "out_features": arch.embed_dim,
            "bias": False,
            "activation_function": "torch.nn.modules.linear.Identity",
        }
    modules.append((f"{len(modules)}_Normalize", "base.modules.normalize.Normalize"))
    files[f"{modules[-1][0]}/config.json"] = {}
    files["modules.json"] = [
        {"idx": i, "name": str(i), "path": place, "type": f"{SENTENCE}.{module}"}
        for i, (place, module) in enumerate(modules)
    ]
    return files


def pooling_mode(arch: Architecture) -> str:
    """The pooling as sentence-transformers names it. Raises HubError where it has none, or it would not be the same."""
    if arch.pooling not in POOLING_MODES:
        raise HubError(f"pooling {arch.pooling!r} cannot be exported: choose from {', '.join(POOLING_MODES)}")
    if arch.pooling == "max" and is_embedder(arch):
        raise HubError(
            "max pooling cannot be exported from an EmbeddingGemma 2: its class projects tokens before the pooling, "
            "which gives other vectors than the projection of the maximum"
        )
    return POOLING_MODES[arch.pooling]


def _inputs_json(arch: Architecture) -> dict[str, Any]:
    """The inputs that sentence-transformers accepts: each modality alone, and messages of parts in order."""
    modalities = exported_modalities(arch)
    forward = {"method": "forward", "method_output_name": "last_hidden_state"}
    accepted: dict[str, Any] = dict.fromkeys(modalities, forward)
    if len(modalities) > 1:
        accepted["message"] = {**forward, "format": "structured"}
    return {
        "transformer_task": "feature-extraction",
        "modality_config": accepted,
        "module_output_name": "token_embeddings",
    }


def _tokenizer_json(arch: Architecture, tokenizer: Tokenizer) -> dict[str, Any]:
    pad, eos, bos, unk = TEXT_TOKENS
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": MAX_TOKENS,
        "pad_token": pad,
        "eos_token": eos,
        "bos_token": bos,
        "unk_token": unk,
    }
    if is_gemma3(arch):
        return config
    names = ("boi_token", "image_token", "eoi_token", "boa_token", "audio_token", "eoa_token")
    media = (*tokenizer.names.image, *tokenizer.names.audio)
    return config | dict(zip(names, media, strict=True)) | {"video_token": tokenizer.names.video[1]}


def _processor_json(arch: Architecture, model_type: str) -> dict[str, Any]:
    """The processor that prepares images, video and audio as embed's data pipeline does."""
    media = arch.media
    if media.patch_size and not {media.image_patches, media.frame_patches} <= set(SOFT_TOKENS):
        raise HubError(
            f"trained with {media.image_patches} soft tokens per image and {media.frame_patches} per video frame; the "
            f"processors of transformers know {', '.join(map(str, SOFT_TOKENS))}"
        )
    pool = arch.vision.pool_size if arch.vision else 3 if media.patch_size % 3 == 0 else 1
    family = "Gemma4Unified" if model_type == "gemma4_unified" else "Gemma4"
    cut = {"patch_size": media.patch_size // pool, "pooling_kernel_size": pool}
    video = {"fps": 1, "max_frames": MAX_FRAMES, "overflow_strategy": "uniform", "add_timestamps": media.timestamps}
    features = {"feature_size": media.mel_bins or media.audio_frame_size, "sampling_rate": 16_000}
    if not media.mel_bins:
        features["audio_samples_per_token"] = media.audio_frame_size
    return {
        "processor_class": "EmbeddingGemma2Processor" if is_embedder(arch) else f"{family}Processor",
        "image_seq_length": media.image_patches,
        "audio_seq_length": media.clip_tokens,
        "image_processor": {
            "image_processor_type": f"{family}ImageProcessor",
            "max_soft_tokens": media.image_patches,
            **cut,
        },
        "video_processor": {
            "video_processor_type": "EmbeddingGemma2VideoProcessor",
            "max_soft_tokens": media.frame_patches,
            **cut,
            **video,
        },
        "feature_extractor": {"feature_extractor_type": f"{family}AudioFeatureExtractor", **features},
    }


def _query(task: str) -> str:
    return prompts.QUERY.format(task=task, text="")


# By name, for SentenceTransformer.encode(..., prompt_name=...), our task names and those that mteb asks for.
PROMPTS = {
    "query": _query("search result"),
    "document": prompts.DOCUMENT.format(title="none", text=""),
    **{task: _query(task) for task in prompts.QUERY_TASKS},
    **{
        name: _query(task)
        for name, task in {
            "BitextMining": "search result",
            "Classification": "classification",
            "Clustering": "clustering",
            "MultilabelClassification": "classification",
            "PairClassification": "sentence similarity",
            "Reranking": "search result",
            "Retrieval": "search result",
            "STS": "sentence similarity",
            "Summarization": "sentence similarity",
        }.items()
    },
    "Retrieval-document": prompts.DOCUMENT.format(title="none", text=""),
}
