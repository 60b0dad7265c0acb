"""The text encoder of EmbeddingGemma 2's size on a CPU, beside the same model in PyTorch, in turn in one run.

  python benchmarks/encoder_cpu.py [--rows 16] [--tokens 128] [--rounds 5]

Prints the median seconds of a forward pass, and of one with all gradients, of both, and the ratio (above 1: embed is
faster). float32, random weights, the same shapes; needs the extra [hf]. Run it in `source launch/environment.sh`.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import EmbeddingGemma2TextConfig
from transformers.models.embedding_gemma2.modeling_embedding_gemma2 import EmbeddingGemma2TextModel

from embed.batch import Inputs
from embed.distributed import mesh
from embed.model.build import build
from embed.model.encoder import init_params
from embed.model.presets import EMBEDDINGGEMMA2


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def ours(tokens: np.ndarray) -> tuple[Callable, Callable]:
    """Forward, and forward with backward, of our encoder on tokens i32[b,l]."""
    arch = EMBEDDINGGEMMA2
    encoder = build(arch, remat=False, unroll=arch.num_layers)
    params = init_params(encoder, jax.random.key(0))
    params = {name: params[name] for name in ("backbone", "projection", "vocabulary")}  # the text model alone
    b, l = tokens.shape
    positions = np.tile(np.arange(l, dtype=np.int32), (b, 1))
    nothing = np.zeros((b, 0, 0, 0), np.float32)
    inputs = Inputs(
        tokens, positions * 0 + 1, positions, positions * 0 - 1, nothing, np.zeros((b, 0, 0, 2), np.int32),
        nothing, np.zeros((b, 0, 0), bool),
    )  # fmt: skip
    inputs = mesh.to_global(inputs)

    def loss(params: dict) -> jax.Array:
        return jnp.mean(jnp.square(encoder.apply({"params": params}, inputs)))

    forward, backward = jax.jit(loss), jax.jit(jax.grad(loss))
    return lambda: forward(params).block_until_ready(), lambda: jax.block_until_ready(backward(params))


def theirs(tokens: np.ndarray) -> tuple[Callable, Callable]:
    """The same of transformers' model in PyTorch."""
    model = EmbeddingGemma2TextModel(EmbeddingGemma2TextConfig()).eval()
    ids = torch.tensor(tokens.astype(np.int64))

    def loss() -> torch.Tensor:
        return model(input_ids=ids).last_hidden_state.mean(1).square().mean()

    def forward() -> None:
        with torch.no_grad():
            loss()

    def backward() -> None:
        model.zero_grad(set_to_none=True)
        loss().backward()

    return forward, backward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rows", 16), ("tokens", 128), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    shape = (given.rows, given.tokens)
    tokens = np.random.default_rng(0).integers(5, EMBEDDINGGEMMA2.vocab_size, shape).astype(np.int32)
    with jax.set_mesh(mesh.make_mesh((1, 1, 1))):
        sides = ours(tokens), theirs(tokens)
        print(f"{given.rows} x {given.tokens} tokens, float32, {torch.get_num_threads()} threads")
        for number, what in enumerate(("forward", "forward and backward")):
            runs = [side[number] for side in sides]
            for run in runs:
                run()
            times = [[seconds(run) for run in runs] for _ in range(given.rounds)]
            mine, other = (statistics.median(column) for column in zip(*times, strict=True))
            print(f"{what}: embed {mine:.2f} s, PyTorch {other:.2f} s, ratio {other / mine:.2f}", flush=True)


if __name__ == "__main__":
    main()
