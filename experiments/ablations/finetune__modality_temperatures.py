"""Do modalities need separate temperatures, learned with the encoder? (e5-omni, arXiv 2601.03666)

Hypothesis: audio and video gain a little: their cosines are spread less than those of text.
"""

import dataclasses
import functools

import flax.linen as nn
from ml_collections import ConfigDict

from embed.losses import temperature
from embed.losses.contrastive import contrastive_loss
from embed.training.main import run
from experiments import finetune


@dataclasses.dataclass(frozen=True)
class Loss:
    encoder: nn.Module
    config: ConfigDict

    def init(self, key):
        return {"scale": temperature.init_log_temperature(finetune.TEMPERATURE, len(temperature.MODALITIES))}

    def __call__(self, params, pairs, candidates, key):
        modalities = (temperature.has_modalities(side) for side in (pairs.query, pairs.target))
        scale = 1 / temperature.pair_temperature(temperature.clipped_exp(params.loss["scale"]), *modalities)
        contrast = functools.partial(contrastive_loss, scale=scale)
        loss = finetune.make_loss(self.encoder, self.config, contrast=contrast, temperature=1.0)
        return loss(params, pairs, candidates, key)


def plan(config):
    return finetune.plan(config, make_loss=Loss)


if __name__ == "__main__":
    run(plan)
