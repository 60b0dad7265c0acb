"""Temperatures that are learned, as logarithms among the loss's parameters.

    def init(key):  # of the loss
        return {temperature.NAME: {"scale": temperature.init_log_temperature(0.05)}}

    def __call__(params, pairs, candidates, key):
        ...
        return contrastive_loss(..., temperature=temperature.clipped_exp(params.loss[temperature.NAME]["scale"]))

The name `scale` keeps weight decay away (embed/training/optim.py).
"""

import math

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import P

from embed.batch import NUM_SPECIAL, Inputs, is_media_token

NAME = "temperature"
MIN_TEMPERATURE, MAX_TEMPERATURE = (
    0.01,
    1.0,
)  # CLIP (arXiv 2103.00020, §2.5) keeps logits from being scaled by more than 100
MODALITIES = ("words", "pictures", "sound")


def init_log_temperature(start: float, modalities: int = 0) -> jax.Array:
    """The logarithm of a temperature, f32[]; or one for each of several modalities, f32[m]."""
    shape = (modalities,) if modalities else ()
    return jnp.full(shape, math.log(start), jnp.float32, out_sharding=P())


@jax.custom_vjp
def clipped_exp(logarithm: jax.Array) -> jax.Array:
    """The temperature of a logarithm f32[...], within LEAST and MOST.

    Beyond a bound the gradient stays where it leads back, so that a parameter that a step has carried across is not
    stuck there, and is zero where it leads on.
    """
    return jnp.exp(jnp.clip(logarithm, math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE)))


def _forward(logarithm: jax.Array) -> tuple[jax.Array, jax.Array]:
    return clipped_exp(logarithm), logarithm


def _backward(logarithm: jax.Array, by: jax.Array) -> tuple[jax.Array]:
    slope = by * clipped_exp(logarithm)
    # A step goes against the gradient.
    leads_on = ((logarithm <= math.log(MIN_TEMPERATURE)) & (slope > 0)) | (
        (logarithm >= math.log(MAX_TEMPERATURE)) & (slope < 0)
    )
    return (jnp.where(leads_on, 0, slope),)


clipped_exp.defvjp(_forward, _backward)


def pair_temperature(temperatures: jax.Array, query: jax.Array, target: jax.Array) -> jax.Array:
    """The temperature of every pair, f32[q], from modalities' f32[m] and which ones its two sides have, bool[q,m] each.

    A side's is the mean over what is in it, a pair's the mean of both sides (e5-omni, arXiv 2601.03666). For `contrast`
    as `temperature=1.0, scale=1 / by_modality(...)`. A side must have a modality.
    """

    def side(has: jax.Array) -> jax.Array:
        share = has / jnp.sum(has, axis=1, keepdims=True)
        return jnp.sum(share * rearrange(temperatures, "m -> 1 m"), axis=1)

    return (side(query) + side(target)) / 2


def has_modalities(inputs: Inputs) -> jax.Array:
    """Which of MODALITIES are in each row of one input, bool[b,3]; frames of videos are pictures.

    A row without any, an empty or unreadable one, counts as words.
    """
    words = jnp.sum(~is_media_token(inputs) & (inputs.segments > 0), axis=1) > NUM_SPECIAL
    seen = jnp.any(inputs.patch_xy[..., 0] >= 0, axis=(1, 2))
    heard = jnp.any(inputs.audio_mask, axis=(1, 2))
    return jnp.stack([words | ~(seen | heard), seen, heard], axis=1)
