"""Weight decay is for matrices and tables alone, in every architecture."""

import jax
import jax.numpy as jnp
import pytest
from conftest import ARCH
from flax.traverse_util import flatten_dict

from embed.losses import temperature
from embed.losses.loss import Params
from embed.model import lora
from embed.model.build import build
from embed.model.params import param_structs
from embed.model.presets import PRESETS
from embed.training import optim

STACKS = ("groups", "shared_groups", "locals", "layers")  # what scanned layers are under, each with an axis in front


def rank(path: tuple[str, ...], leaf) -> int:
    """Axes of a leaf of one layer."""
    return leaf.ndim - sum(name in STACKS for name in path)


@pytest.mark.parametrize("name", ["every feature", *PRESETS])
def test_what_has_one_axis_or_none_in_its_layer_is_not_decayed_and_all_else_is(name):
    params = param_structs(build(PRESETS.get(name, ARCH)))
    params = jax.eval_shape(lambda params: lora.add_adapters(jax.random.key(0), params, 2), params)
    params |= {"temperature": {"scale": jax.eval_shape(lambda: temperature.init_log_temperature(0.05, 3))}}
    decayed = flatten_dict(optim.is_matrix(params))
    wrong = {path for path, leaf in flatten_dict(params).items() if decayed[path] != (rank(path, leaf) >= 2)}
    assert not wrong
    names = {path[-1] for path in decayed if decayed[path]}
    assert names <= {"weight", "vocabulary", "position", "table", "relative", lora.A, lora.B}


def test_a_losss_scalars_and_vectors_are_not_decayed_whatever_their_names():
    loss = {"log_temperature": jnp.zeros(()), "offset": jnp.zeros(3), "projection": {"weight": jnp.zeros((4, 3))}}
    encoder = {"norm": {"scale": jnp.zeros((2, 4))}, "weight": jnp.zeros((4, 4))}
    decayed = optim.is_matrix(Params(encoder, loss))
    assert decayed.loss == {"log_temperature": False, "offset": False, "projection": {"weight": True}}
    assert decayed.encoder == {"norm": {"scale": False}, "weight": True}
