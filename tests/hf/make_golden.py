"""Writes tests/hf/golden: small random models of every kind, inputs, and what transformers makes of them.

python tests/hf/make_golden.py      needs the extra [hf]; run it again when the reference changes
"""

import pathlib
import sys

import numpy as np
import torch

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from conftest import SENTENCES  # noqa: E402
from reference import KINDS, apart, random_pieces, their_inputs, their_states, written  # noqa: E402
from test_golden import BUDGET, ORDERS, SEEDS, VOCABULARY  # noqa: E402

from embed.data.collate import make_rows  # noqa: E402
from embed.data.preprocess import Preprocessor  # noqa: E402
from embed.data.tokenizer import train_tokenizer  # noqa: E402
from embed.hf import read_architecture  # noqa: E402


def main() -> None:
    tokenizer = train_tokenizer(SENTENCES, 512)
    for kind in KINDS:
        folder = HERE / "golden" / kind
        folder.mkdir(parents=True, exist_ok=True)
        model = written(folder, kind, SEEDS[kind], tokenizer, torch.bfloat16, VOCABULARY)
        # Read again, not cast: its constants (sqrt(width), rotary frequencies) were rounded with the weights.
        model = type(model).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        media = read_architecture(folder).media
        rng = np.random.default_rng(0)
        pieces = [random_pieces(order, media, tokenizer, rng, VOCABULARY) for order in ORDERS]
        rows = make_rows(pieces, BUDGET, Preprocessor(tokenizer, media))
        means = [
            their_states(model, their_inputs(model, laid, one, media))[0]
            for one, laid in zip(pieces, apart(rows), strict=True)
        ]
        np.savez_compressed(folder / "inputs.npz", mean=np.stack(means), **vars(rows))


if __name__ == "__main__":
    main()
