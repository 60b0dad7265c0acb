"""Model soup: average the encoders of fine-tuning checkpoints, over steps of a run and over runs.

Gemini Embedding 2, §3.3. Uniform over the runs' last steps, weighted by a share for each run, and greedy by validation
score over the last two checkpoints of every run.
"""

import json
import logging

import jax
from ml_collections import ConfigDict

from embed.distributed import storage
from embed.embedder import Embedder
from embed.eval.suite import encode_suite, evaluate, load_suite, mean_ndcg
from embed.training import checkpoint, soup
from embed.training.config_check import trusted_classes
from embed.training.main import run_script

log = logging.getLogger(__name__)
RUNS = ("finetune", "finetune__more_media")
WEIGHTS = (2.0, 1.0)  # of the weighted soup, as in the report's Table 6
STEPS_PER_RUN = 2  # last checkpoints offered to the greedy soup


def main(config: ConfigDict) -> None:
    work = storage.path(config.workdir)
    runs = [work / name for name in RUNS]
    trust = trusted_classes(config)
    embedder = Embedder.load(runs[0], trust, config.dtype)
    suite = load_suite(embedder, storage.path(config.data), "dev")

    def score(params: dict) -> float:
        vectors = encode_suite(embedder, params, suite)
        return mean_ndcg(evaluate(suite, vectors, embedder.encoder.arch.matryoshka_dims))

    last = [run / "checkpoints" / str(checkpoint.locate(run)[1]) for run in runs]
    for name, weights in {"soup_uniform": (1.0,) * len(runs), "soup_weighted": WEIGHTS}.items():
        params = soup.average(last, weights, trust)
        soup.save(work / name, params, last, weights=weights, score=score(params))
    offered = [run / "checkpoints" / str(step) for run in runs for step in checkpoint.saved_steps(run)[-STEPS_PER_RUN:]]
    params, kept, trials = soup.greedy(offered, score, trust)
    soup.save(work / "soup_greedy", params, kept, weights=[1.0] * len(kept), trials=trials)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    log.info("soups of %s parameters: %s", f"{size:,}", json.dumps(trials))


if __name__ == "__main__":
    run_script(main)
