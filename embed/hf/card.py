"""The model card: what the model is, where it comes from, how it scored, how to use it."""

import json
from typing import Any

from embed.data import prompts
from embed.hf.gemma3 import is_gemma3
from embed.model.config import Architecture


def exported_modalities(arch: Architecture) -> list[str]:
    """The modalities that the exported class takes: text alone in a Gemma 3, whose image and audio maps are embed's."""
    media = not is_gemma3(arch)
    return [
        "text",
        *(["image", "video"] if media and arch.media.patch_size else []),
        *(["audio"] if media and arch.media.audio_frame_size else []),
    ]


def model_card(arch: Architecture, metadata: dict[str, Any], name: str) -> str:
    """README.md of an exported model, from its checkpoint's metadata."""
    modalities = exported_modalities(arch)
    tags = "\n".join(f"- {tag}" for tag in ("sentence-transformers", "feature-extraction", "matryoshka", *modalities))
    size = (
        f"{arch.num_layers} layers of width {arch.d_model}, {arch.attention} attention, {arch.pooling} pooling, "
        f"embeddings of {arch.embed_dim} dimensions"
    )
    return f"""---
library_name: sentence-transformers
pipeline_tag: feature-extraction
tags:
{tags}
---

# {name}

One encoder for {", ".join(modalities)} and any interleaving of them, trained with embed: {size},
usable at {", ".join(map(str, arch.matryoshka_dims))} dimensions (truncate, then normalize again).

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("this folder")
queries = model.encode(["how do I sort a list?"], prompt_name="query")
documents = model.encode(["sorted(iterable) returns a new sorted list"], prompt_name="document")
print(model.similarity(queries, documents))
```

Text alone takes a prompt: `{prompts.QUERY}` for queries ({", ".join(prompts.QUERY_TASKS)}), `{prompts.DOCUMENT}` for
documents. Inputs with media take none. float16 overflows; use bfloat16 or float32.{_media_note(arch)}

## Lineage

{_lineage(metadata)}
"""


def _media_note(arch: Architecture) -> str:
    if not is_gemma3(arch) or not (arch.media.patch_size or arch.media.audio_frame_size):
        return ""
    return (
        "\nThe class in transformers takes text alone. Images, video and audio: `embed.Embedder.load(FOLDER)`, which"
        "\nreads their maps from media/."
    )


def _lineage(metadata: dict[str, Any]) -> str:
    """Experiment, code, parents, weights and scores of a checkpoint as a list; all of its metadata is in embed.json."""
    fields = {name: metadata.get(name) for name in ("experiment", "code", "seed", "init")} | metadata.get("soup", {})
    rows = [f"- {name}: {_format_value(value)}" for name, value in fields.items() if value not in (None, [], {})]
    tasks = [task["name"] for task in metadata.get("tasks", [])]
    return "\n".join([*rows, *([f"- tasks: {', '.join(tasks)}"] if tasks else [])])


def _format_value(value: Any) -> str:
    return value if isinstance(value, str) else f"`{json.dumps(value)}`"
