"""The JSON files of an exported folder: what transformers and sentence-transformers read beside the weights."""

from typing import Any

from embed.data import prompts
from embed.data.media.video import MAX_FRAMES
from embed.data.pieces import MAX_TOKENS
from embed.data.tokenizer import TEXT_TOKENS, Tokenizer
from embed.hf.card import exported_modalities
from embed.hf.config import EARLIER_POOLING_FIELDS, POOLING_MODES, is_embedder
from embed.hf.config_json import make_config_json
from embed.hf.fields import HubError
from embed.hf.gemma3 import is_gemma3
from embed.model.config import Architecture

SOFT_TOKENS = (70, 140, 280, 560, 1120)  # the budgets that transformers' image processors take
SENTENCE = "sentence_transformers"


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
