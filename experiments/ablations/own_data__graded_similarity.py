"""What do graded pairs teach? Every sts_train split under --config.pairs joins the mixture, with a ranking loss.

Hypothesis: Spearman's correlation rises by several points, also in languages with few pairs; retrieval loses nothing.
"""

import functools

from embed.data import discover
from embed.data.sources import SIMILARITY_SPLITS
from embed.losses.contrastive import contrastive_loss
from embed.losses.ranking import cosent
from embed.training.config_check import ConfigError
from embed.training.main import run
from experiments import finetune, own_data


def contrast(query, target, negative, pairs, *, temperature, widths, candidates):
    if len(pairs.score):
        return cosent(query, target, pairs.score, pairs.valid, temperature=temperature, widths=widths)
    return contrastive_loss(
        query, target, negative, pairs, temperature=temperature, widths=widths, candidates=candidates
    )


def plan(config):
    split = SIMILARITY_SPLITS["train"]
    if not discover.find_datasets(config.pairs, split):
        raise ConfigError(f"--config.pairs={config.pairs}: no dataset there has graded pairs, {split}.jsonl")
    preprocessor = own_data.load_preprocessor(config)
    graded = discover.make_graded_tasks(config.pairs, preprocessor, own_data.MAX_BUDGET, own_data.BATCH)
    make_loss = functools.partial(finetune.make_loss, contrast=contrast)
    return own_data.plan(config, tasks=(*own_data.make_tasks(config), *graded), make_loss=make_loss)


if __name__ == "__main__":
    run(plan)
