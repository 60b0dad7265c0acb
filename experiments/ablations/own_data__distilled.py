"""What does a published text encoder teach? Your texts' vectors, at its width, follow those of all-MiniLM-L6-v2 too.

As EmbeddingGemma learned from a larger encoder (arXiv 2509.20354). Needs the extra [hf].
Hypothesis: datasets that are not trained on gain most; languages that the teacher does not know lose.
"""

import functools

from embed.eval.baselines.evaluate import load_baseline
from embed.eval.baselines.teacher import embed_training_texts
from embed.losses.contrastive import contrastive_loss
from embed.losses.distillation import embedding_matching, look_up
from embed.training.config_check import ConfigError
from embed.training.main import run
from experiments import finetune, own_data

TEACHER = "minilm"
WEIGHT = 1.0  # of the squared distances


def contrast(query, target, negative, pairs, *, table, **options):
    value, metrics = contrastive_loss(query, target, negative, pairs, **options)
    for side, hashes in ((query, pairs.query_hash), (target, pairs.target_hash)):
        teacher, is_known = look_up(table, hashes)
        value += WEIGHT * embedding_matching(side[:, : teacher.shape[1]], teacher, pairs.valid & is_known)
    return value, metrics


def plan(config):
    try:
        teacher = load_baseline(TEACHER).retriever
    except ModuleNotFoundError as error:
        raise ConfigError(str(error)) from error
    table = embed_training_texts(teacher, config.pairs)
    return own_data.plan(
        config, make_loss=functools.partial(finetune.make_loss, contrast=functools.partial(contrast, table=table))
    )


if __name__ == "__main__":
    run(plan)
