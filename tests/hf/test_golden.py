"""The same numbers as the transformers library, without it: what it gave is kept in golden/ (see make_golden.py)."""

import pathlib

import jax
import numpy as np
import pytest

from embed import hf
from embed.batch import Inputs
from embed.data.budget import Budget
from embed.distributed import mesh
from embed.hf.config import is_embedder
from embed.model.build import build

GOLDEN = pathlib.Path(__file__).parent / "golden"
SEEDS = {"embeddinggemma2": 1, "gemma4_e2b": 0, "gemma4_e4b": 1, "gemma4_12b": 0}  # models with both towers
VOCABULARY = 64
ORDERS = ("w", "p", "s", "v", "wpw", "sw", "wvvs", "pwps", "swpvw", "pspw")
BUDGET = Budget(tokens=96, images=2, patches=9, clips=2, frames=40)


@pytest.mark.parametrize("kind", SEEDS)
def test_embeddings_equal_what_the_reference_gave(kind):
    arch = hf.read_architecture(GOLDEN / kind)
    assert arch.media.patch_size and arch.media.audio_frame_size
    params = hf.load(GOLDEN / kind)
    kept = dict(np.load(GOLDEN / kind / "inputs.npz"))
    mean = kept.pop("mean")
    apply = jax.jit(lambda params, inputs: build(arch, remat=False).apply({"params": params}, inputs)[:, 0])
    found = np.asarray(apply(params, mesh.to_global(Inputs(**kept))))
    expected = mean if is_embedder(arch) else mean @ np.asarray(params["projection"]["weight"])
    assert np.abs(found - expected).max(1) / np.abs(expected).max(1) == pytest.approx(0, abs=1e-4)
