"""Five changes that a researcher makes first, each in a copy of the project: what is trained is what is used.

A change adds or edits the files that its case names. The copy trains three steps with it (the first has a learning
rate of zero), evaluates the run, averages its checkpoints, and embeds with the run and the soup.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest
from conftest import ARCH

from embed import toy_corpora
from embed.training.prepare import prepare_preprocessor

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parents[2]
TEXTS = ["a small red star", "remove a directory tree"]


class Change(NamedTuple):
    files: dict[str, str]  # path -> text of a new file, or the text that replaces an old one's marked line
    trust: str = ""
    name: str = "finetune__mine"


POOLING = '''"""Does the last token say as much as the mean?"""

import dataclasses

from embed.model.presets import PRESETS
from embed.training.main import run
from experiments.ablations import finetune__from_scratch


def plan(config):
    arch = dataclasses.replace(PRESETS[config.model], pooling="last", attention="causal")
    return finetune__from_scratch.plan(config, arch=arch)


if __name__ == "__main__":
    run(plan)
'''
TERM = '''"""Does a penalty on the mean vector help?"""

import functools

import jax.numpy as jnp

from embed.losses.contrastive import contrastive_loss
from embed.training.main import run
from experiments import finetune
from experiments.ablations import finetune__from_scratch


def contrast(query, target, negative, pairs, **options):
    value, metrics = contrastive_loss(query, target, negative, pairs, **options)
    penalty = jnp.mean(jnp.square(jnp.mean(query.astype(jnp.float32), axis=0)))
    return value + 0.1 * penalty, {**metrics, "penalty": penalty}


def plan(config):
    return finetune__from_scratch.plan(config, make_loss=functools.partial(finetune.make_loss, contrast=contrast))


if __name__ == "__main__":
    run(plan)
'''
LEARNED = '''"""Is a learned temperature better than a fixed one?"""

import dataclasses

import flax.linen as nn
from ml_collections import ConfigDict

from embed.losses.temperature import clipped_exp, init_log_temperature
from embed.training.main import run
from experiments import finetune
from experiments.ablations import finetune__from_scratch


@dataclasses.dataclass(frozen=True)
class Loss:
    encoder: nn.Module
    config: ConfigDict

    def init(self, key):
        return {"scale": init_log_temperature(0.07)}

    def __call__(self, params, pairs, candidates, key):
        temperature = clipped_exp(params.loss["scale"])
        loss = finetune.make_loss(self.encoder, self.config, temperature=temperature)
        value, metrics = loss(params, pairs, candidates, key)
        return value, {"temperature": temperature}  # no accuracy: a loss names its own metrics


def plan(config):
    return finetune__from_scratch.plan(config, make_loss=Loss)


if __name__ == "__main__":
    run(plan)
'''
ENCODER = '''"""A bag of tokens: no attention at all."""

import flax.linen as nn
import jax.numpy as jnp

from embed.distributed import mesh
from embed.model.build import EncoderModule
from embed.model.encoder import projection
from embed.model.pooling import mean_pool


class Bag(EncoderModule):
    @nn.compact
    def __call__(self, inputs):
        arch = self.arch
        init = nn.initializers.normal(arch.d_model**-0.5)
        table = self.param("table", init, (arch.vocab_size, arch.d_model), jnp.float32, mesh.VOCABULARY)
        x = table.astype(self.dtype).at[inputs.tokens].get(out_sharding=mesh.TOKENS)
        return projection(arch, name="projection")(mean_pool(x, inputs.segments, inputs.max_segments))
'''
ENCODER_FORK = '''"""What is attention worth?"""

import dataclasses

from embed.model.presets import PRESETS
from embed.training.main import run
from experiments.ablations import finetune__from_scratch


def plan(config):
    arch = dataclasses.replace(PRESETS[config.model], encoder="my_encoder:Bag")
    return finetune__from_scratch.plan(config, arch=arch)


if __name__ == "__main__":
    run(plan)
'''
FORK = "experiments/finetune__mine.py"
SUITE = "embed/eval/suite.py"
CHANGES = {
    "another pooling": Change({FORK: POOLING}),
    "a loss term": Change({FORK: TERM}),
    "a loss with a learned parameter": Change({FORK: LEARNED}),
    "an encoder class": Change({"my_encoder.py": ENCODER, FORK: ENCODER_FORK}, trust="my_encoder:Bag"),
    "a benchmark in the suite": Change(
        {SUITE: 'SUITE = {\n    "mine": SuiteDataset(None, "search result", "my own pairs"),'},
        name="finetune__from_scratch",
    ),
}
FILES_TOUCHED = {"an encoder class": 2}  # of the others: one

USE = """
import json, sys
from embed import Embedder
from embed.distributed.mesh import make_mesh
from embed.training import soup
import jax, pathlib

run, trust, texts = pathlib.Path(sys.argv[1]), tuple(filter(None, sys.argv[2].split(","))), json.loads(sys.argv[3])
steps = sorted((run / "checkpoints").iterdir(), key=lambda path: int(path.name))
with jax.set_mesh(make_mesh((1, 1, 1))):
    soup.save(run.parent / "soup", soup.average(steps, [1.0] * len(steps), trust), steps, weights=[1.0] * len(steps))
vectors = {}
for name in (run, run.parent / "soup"):
    embedder = Embedder.load(name, trust)
    vectors[name.name] = embedder.embed(texts).tolist()
    arch = embedder.encoder.arch
print(json.dumps({
    "vectors": vectors, "class": type(embedder.encoder).__name__, "pooling": arch.pooling, "attention": arch.attention
}))
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the project with a small model, corpora of 16 records and a tokenizer."""
    folder = tmp_path_factory.mktemp("copy")
    for room in ("embed", "experiments", "configs"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "embed/model/presets.py").open("a") as presets:
        presets.write(
            "\nfrom embed.batch import MediaFormat\nfrom embed.model.config import Architecture, AttentionSpec\n"
            f"\nPRESETS['tiny'] = {ARCH!r}\n"
        )
    toy_corpora.build(folder / "runs/data", max_records=16)
    prepare_preprocessor(ARCH, folder / "runs/data")
    return folder


def call(folder: pathlib.Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("title", CHANGES)
def test_a_change_is_trained_evaluated_averaged_and_used(copy, tmp_path, title):
    change = CHANGES[title]
    folder = tmp_path / "copy"
    shutil.copytree(copy, folder)
    for name, text in change.files.items():
        path = folder / name
        path.write_text(path.read_text().replace("SUITE = {", text) if path.exists() else text)
    assert len(change.files) == FILES_TOUCHED.get(title, 1)
    for split in ("dev", "test"):  # data is no code
        rows = [{"id": f"{i}", "query": [{"text": f"q {i}"}], "positive": [{"text": f"t {i}"}]} for i in range(5)]
        (folder / "runs/data/mine").mkdir(exist_ok=True)
        (folder / f"runs/data/mine/{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))

    module = change.name if (folder / f"experiments/{change.name}.py").exists() else f"ablations.{change.name}"
    call(
        folder,
        "-m",
        f"experiments.{module}",
        "--config.steps=3",
        "--config.save=1",
        "--config.eval=0",
        f"--config.trust={change.trust}",
    )
    run = folder / "runs" / change.name
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [0, 1, 2]

    trust = ["--trust", change.trust] if change.trust else []
    table = call(folder, "-m", "embed", "evaluate", str(run), *trust)
    assert ("mine: query" in table) == (title == "a benchmark in the suite")

    used = json.loads(call(folder, "-c", USE, str(run), change.trust, json.dumps(TEXTS)).splitlines()[-1])
    vectors = {name: np.array(rows) for name, rows in used["vectors"].items()}
    assert vectors.keys() == {change.name, "soup"} and all(rows.shape[0] == len(TEXTS) for rows in vectors.values())
    assert not np.array_equal(vectors[change.name], vectors["soup"])
    for rows in vectors.values():
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if "loss" in line][-1]
    match title:
        case "another pooling":
            assert (used["pooling"], used["attention"]) == ("last", "causal")
        case "a loss term":
            assert last["penalty"] > 0 and "accuracy" in last
        case "a loss with a learned parameter":
            assert last["temperature"] != pytest.approx(0.07, abs=1e-7) and "accuracy" not in last
        case "an encoder class":
            assert used["class"] == "Bag"
            refused = subprocess.run(
                [sys.executable, "-m", "embed", "evaluate", str(run)],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(folder)},
                capture_output=True,
                text=True,
                check=False,
            )
            assert refused.returncode and "my_encoder:Bag" in refused.stderr and "--trust" in refused.stderr
