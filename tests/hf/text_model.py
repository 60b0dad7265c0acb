"""A small model of text alone, as a checkpoint of ours."""

import dataclasses
import pathlib

import jax
from conftest import ARCH

from embed.data.preprocess import Preprocessor
from embed.data.tokenizer import Tokenizer
from embed.distributed import mesh
from embed.model.build import build
from embed.model.config import Architecture
from embed.model.encoder import init_params
from embed.training.metadata import metadata_for
from embed.training.weights import save_params


def text_arch(tokenizer: Tokenizer) -> Architecture:
    """Its table has a row for each id of the tokenizer and no more."""
    media = dataclasses.replace(ARCH.media, patch_size=0, audio_frame_size=0, mel_bins=0)
    return dataclasses.replace(ARCH, vocab_size=tokenizer.size, per_layer_dim=0, media=media)


def save_run(folder: pathlib.Path, tokenizer: Tokenizer) -> pathlib.Path:
    """The folder, with random parameters in it."""
    arch = text_arch(tokenizer)
    about = metadata_for(arch, Preprocessor(tokenizer, arch.media))
    with jax.set_mesh(mesh.make_mesh((1, 1, 1))):
        save_params(folder, init_params(build(arch), jax.random.key(1)), about, tokenizer)
    return folder
