"""What is a foundation model worth? Fine-tuning that starts from a published one (report §3.1: its pre-training).

--config.pretrained is a folder of EmbeddingGemma 2 or Gemma 4 (config.json, safetensors, tokenizer.json). A causal
model becomes bidirectional and gets a new projection.
"""

import dataclasses

from embed import hf
from embed.training.config_check import require_pretrained
from embed.training.main import run
from experiments import finetune


def plan(config):
    folder = require_pretrained(config)
    parent = finetune.plan(config, arch=hf.read_architecture(folder), learning_rate=2e-5)
    # The token tables are half of the small Gemma 4 models; they stay frozen.
    return dataclasses.replace(parent, init=folder, trainable=lambda path: path[-1] != "table")


if __name__ == "__main__":
    run(plan)
