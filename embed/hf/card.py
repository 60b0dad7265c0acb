"""The model card: what the model is, where it comes from, how it scored, how to use it."""

import json
import os
from typing import Any

from embed.data import prompts
from embed.distributed import storage
from embed.model.config import Architecture


def model_card(arch: Architecture, meta: dict[str, Any], path: storage.Path) -> str:
    """README.md of an exported model, from its checkpoint's metadata."""
    kinds = [
        "text",
        *(["image", "video"] if arch.media.patch_size else []),
        *(["audio"] if arch.media.audio_frame_size else []),
    ]
    tags = "\n".join(f"- {tag}" for tag in ("sentence-transformers", "feature-extraction", "matryoshka", *kinds))
    size = f"{arch.num_layers} layers, {arch.d_model} wide, vectors of {arch.embed_dim}"
    return f"""---
library_name: sentence-transformers
pipeline_tag: feature-extraction
tags:
{tags}
---

# {os.path.basename(storage.absolute(path))}

One encoder for {", ".join(kinds)} and any interleaving of them, trained with embed: {size},
usable at widths {", ".join(map(str, arch.matryoshka_dims))} (cut and normalise again).

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("this folder")
queries = model.encode(["how do I sort a list?"], prompt_name="query")
documents = model.encode(["sorted(iterable) returns a new sorted list"], prompt_name="document")
print(model.similarity(queries, documents))
```

Text alone takes a prompt: `{prompts.QUERY}` for queries ({", ".join(prompts.QUERY_TASKS)}), `{prompts.DOCUMENT}` for
documents. Inputs with media take none. float16 overflows; use bfloat16 or float32.

## Lineage

{_lineage(meta)}
"""


def _lineage(meta: dict[str, Any]) -> str:
    """What the checkpoint says of itself: experiment, code, parents, weights, scores; the rest is in embed.json."""
    told = {name: meta.get(name) for name in ("experiment", "code", "seed", "init")} | meta.get("soup", {})
    rows = [f"- {name}: {_shown(value)}" for name, value in told.items() if value not in (None, [], {})]
    tasks = [task["name"] for task in meta.get("tasks", [])]
    return "\n".join([*rows, *([f"- tasks: {', '.join(tasks)}"] if tasks else [])])


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else f"`{json.dumps(value)}`"
