"""Learned temperatures: parameters of the loss, kept as logarithms.

    class Contrastive:
        def init(self, key):
            return {"temperature": {"scale": init_log_temperature(0.05)}}

        def __call__(self, params, pairs, candidates, key):
            ...
            temperature = clipped_exp(params.loss["temperature"]["scale"])
            return contrastive_loss(..., temperature=temperature)

A parameter named `scale` gets no weight decay (embed/training/optim.py).
"""

import math

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import P

from embed.batch import NUM_SPECIAL, Inputs, is_media_token

# CLIP (arXiv 2103.00020, section 2.5) clips its logit scale, 1 / temperature, at 100.
MIN_TEMPERATURE = 0.01
MAX_TEMPERATURE = 1.0
MODALITIES = ("text", "image", "audio")  # video frames are images


def init_log_temperature(temperature: float, num_modalities: int = 0) -> jax.Array:
    """Make the logarithm of a temperature, f32[]; or of one temperature per modality, f32[m]."""
    shape = (num_modalities,) if num_modalities else ()
    return jnp.full(shape, math.log(temperature), jnp.float32, out_sharding=P())


@jax.custom_vjp
def clipped_exp(log_temperature: jax.Array) -> jax.Array:
    """Return the temperature of a logarithm f32[...], clipped to [MIN_TEMPERATURE, MAX_TEMPERATURE].

    Outside the bounds, the gradient is kept where a step leads back inside, so that a parameter is never stuck there,
    and is zero where a step leads further out.
    """
    return jnp.exp(jnp.clip(log_temperature, math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE)))


def _forward(log_temperature: jax.Array) -> tuple[jax.Array, jax.Array]:
    return clipped_exp(log_temperature), log_temperature


def _backward(log_temperature: jax.Array, grad: jax.Array) -> tuple[jax.Array]:
    slope = grad * clipped_exp(log_temperature)
    # A step goes against the gradient.
    leaves_below = (log_temperature <= math.log(MIN_TEMPERATURE)) & (slope > 0)
    leaves_above = (log_temperature >= math.log(MAX_TEMPERATURE)) & (slope < 0)
    return (jnp.where(leaves_below | leaves_above, 0, slope),)


clipped_exp.defvjp(_forward, _backward)


def pair_temperature(temperatures: jax.Array, query: jax.Array, target: jax.Array) -> jax.Array:
    """Compute the temperature of every pair from the modalities of its query and target.

    temperatures: f32[m], one per modality.
    query, target: bool[q,m], the modalities that each contains (`has_modalities`), at least one.

    Returns f32[q]: the mean of the query's and the target's, each the mean over its modalities (e5-omni, arXiv
    2601.03666). Use it as `contrastive_loss(..., temperature=1.0, scale=1 / pair_temperature(...))`.
    """

    def mean_temperature(has: jax.Array) -> jax.Array:
        share = has / jnp.sum(has, axis=1, keepdims=True)
        return jnp.sum(share * rearrange(temperatures, "m -> 1 m"), axis=1)

    return (mean_temperature(query) + mean_temperature(target)) / 2


def has_modalities(inputs: Inputs) -> jax.Array:
    """Find which of MODALITIES each row contains, bool[b,3]; the rows must not be packed.

    A row without content, empty or undecodable, counts as text.
    """
    has_text = jnp.sum(~is_media_token(inputs) & (inputs.segments > 0), axis=1) > NUM_SPECIAL
    has_image = jnp.any(inputs.patch_xy[..., 0] >= 0, axis=(1, 2))
    has_audio = jnp.any(inputs.audio_mask, axis=(1, 2))
    return jnp.stack([has_text | ~(has_image | has_audio), has_image, has_audio], axis=1)
