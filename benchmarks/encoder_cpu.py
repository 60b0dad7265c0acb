"""Speed of EmbeddingGemma 2's text encoder on a CPU, beside the same model in PyTorch.

  pip install -e ".[hf]"; python -m benchmarks.encoder_cpu [--rows=16] [--tokens=128] [--rounds=5]

Times both in turn, in one process: a forward pass, and one with all gradients, in float32 with random weights. Prints
median seconds and their ratio (above 1: embed is faster). `source launch/environment.sh` first: it sets large pages.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from embed.batch import Inputs
from embed.distributed import mesh
from embed.model.build import build
from embed.model.encoder import init_params
from embed.model.presets import EMBEDDINGGEMMA2


def time_call(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def make_jax_passes(tokens: np.ndarray) -> tuple[Callable, Callable]:
    """Return the forward pass, and forward with backward, of embed's encoder on tokens i32[b,l]."""
    arch = EMBEDDINGGEMMA2
    encoder = build(arch, remat=False, unroll=arch.num_layers)
    params = init_params(encoder, jax.random.key(0))
    params = {name: params[name] for name in ("backbone", "projection", "vocabulary")}  # the text model alone
    b, l = tokens.shape
    positions = np.tile(np.arange(l, dtype=np.int32), (b, 1))
    no_media = np.zeros((b, 0, 0, 0), np.float32)
    inputs = Inputs(
        tokens, positions * 0 + 1, positions, positions * 0 - 1, no_media, np.zeros((b, 0, 0, 2), np.int32),
        no_media, np.zeros((b, 0, 0), bool),
    )  # fmt: skip
    inputs = mesh.to_global(inputs)

    def loss(params: dict) -> jax.Array:
        return jnp.mean(jnp.square(encoder.apply({"params": params}, inputs)))

    forward, backward = jax.jit(loss), jax.jit(jax.grad(loss))
    return lambda: forward(params).block_until_ready(), lambda: jax.block_until_ready(backward(params))


def make_torch_passes(tokens: np.ndarray) -> tuple[Callable, Callable]:
    """Return the same passes of transformers' model in PyTorch."""
    import torch
    from transformers import EmbeddingGemma2TextConfig
    from transformers.models.embedding_gemma2.modeling_embedding_gemma2 import EmbeddingGemma2TextModel

    model = EmbeddingGemma2TextModel(EmbeddingGemma2TextConfig()).eval()
    ids = torch.tensor(tokens.astype(np.int64))

    def loss():
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
    parser.add_argument("--rows", type=int, default=16, help="rows of the batch (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=128, help="tokens per row (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, whose median is printed (default: %(default)s)")
    args = parser.parse_args()
    shape = (args.rows, args.tokens)
    tokens = np.random.default_rng(0).integers(5, EMBEDDINGGEMMA2.vocab_size, shape).astype(np.int32)
    with jax.set_mesh(mesh.make_mesh((1, 1, 1))):
        passes = zip(make_jax_passes(tokens), make_torch_passes(tokens), strict=True)
        print(f"{args.rows} x {args.tokens} tokens, float32, {len(os.sched_getaffinity(0))} CPU cores")
        for name, (run_jax, run_torch) in zip(("forward", "forward and backward"), passes, strict=True):
            run_jax()
            run_torch()
            times = [(time_call(run_jax), time_call(run_torch)) for _ in range(args.rounds)]
            ours, theirs = map(statistics.median, zip(*times, strict=True))
            print(f"{name}: embed {ours:.2f} s, PyTorch {theirs:.2f} s, ratio {theirs / ours:.2f}", flush=True)


if __name__ == "__main__":
    main()
