"""The table of what the report's batches take on slices that are not there: models x slices x tasks, each compiled.

  python -m launch.table            # compiles what launch/compiled.jsonl lacks, and writes launch/compiled.md of it
  python -m launch.table --check    # what is cheap to find again is no more than 5 % above it, or the status is 1

To make a line again, delete it. Checked are the operations of every task's own batch, and the memory of those that
compile in seconds.
"""

import importlib
import json
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import jax
from absl import app, flags
from jax.experimental import topologies
from tqdm import tqdm

from embed.distributed.mesh import make_mesh

CHECK = flags.DEFINE_bool("check", False, "compare with the table instead of adding to it")
TABLE = pathlib.Path(__file__).with_name("compiled.jsonl")
PAGE = TABLE.with_suffix(".md")
TASKS = ("text", "image", "video", "audio")
SLICES = (  # of experiments/scale.py: model, config, slice
    ("embeddinggemma2", "v5e_16", "v5e:4x4"),
    ("embeddinggemma2", "v6e_256", "v6e:16x16"),
    ("gemma4_e2b", "v5p_64", "v5p:4x4x4"),
    ("gemma4_e4b", "v5p_64", "v5p:4x4x4"),
    ("gemma4_12b", "v5p_128", "v5p:4x4x8"),
)
SMALL = ("tiny", "cpu", "v5e:2x2")  # of experiments/finetune.py: quick to compile
LARGE = 1 << 16  # pairs, of the second text batch from which the largest is reckoned
MOST = 1 << 20  # pairs: no larger batch is tried
CHEAP = 30  # seconds of a compilation that the check repeats
TOLERANCE = 0.05
MEASURES = ("flops", "total", "temporary")


def compile_line(experiment: str, model: str, config: str, topology: str, task: str, batch: int = 0) -> dict[str, Any]:
    """One line, by launch.compile in a process of its own. Raises CalledProcessError where that fails."""
    with tempfile.NamedTemporaryFile() as out:
        command = [sys.executable, "-m", "launch.compile", experiment, f"--config=configs/{config}.py"]
        command += [f"--config.model={model}", f"--topology={topology}", f"--task={task}", f"--batch={batch}"]
        subprocess.run([*command, f"--out={out.name}"], check=True, stdout=subprocess.DEVNULL)
        return {"config": config} | json.loads(out.read())


def lines() -> list[dict[str, Any]]:
    """What the table holds."""
    return [json.loads(line) for line in TABLE.read_text().splitlines()] if TABLE.exists() else []


def find(*about: str, batch: int = 0) -> dict[str, Any]:
    """The line of (experiment, model, config, slice, task) and of a batch, compiled and added where it is not there."""
    for line in lines():
        same = about == tuple(line[name] for name in ("experiment", "model", "config", "topology", "task"))
        if same and line["batch"] == (batch or line["own_batch"]):
            return line
    made = compile_line(*about, batch=batch)
    made["own_batch"] = 0 if batch else made["batch"]
    with TABLE.open("a") as file:
        file.write(json.dumps(made) + "\n")
    return made


def largest(*about: str) -> int:
    """Pairs of the largest batch, a power of two, that is reckoned to fit: memory grows by the same for every pair."""
    small, large = find(*about), find(*about, batch=LARGE)
    if not large["fits"]:
        return small["batch"]
    pair = (large["total"] - small["total"]) / (LARGE - small["batch"])
    most = int((large["hbm"] - small["total"]) / max(pair, 1e-9)) + small["batch"]
    return min(1 << (most.bit_length() - 1), MOST)


def fill() -> None:
    """Compiles what the table lacks, with a second and the largest batch of text, and writes the page."""
    wanted = [("scale", *row, task) for row in SLICES for task in TASKS]
    wanted += [("finetune", *SMALL, task) for task in ("stdlib_text", "scenes_image", "scenes_audio")]
    for about in tqdm(wanted, unit="line"):
        find(*about)
        if about[-1] == "text" and not find(*about, batch=(most := largest(*about)))["fits"]:
            raise SystemExit(f"{about}: reckoned that {most} pairs fit, but they do not")
    PAGE.write_text(page(lines()))
    print(PAGE.read_text())


def page(found: list[dict[str, Any]]) -> str:
    """The lines as Markdown."""
    head = ("model", "slice", "task", "pairs", "GiB a chip", "of", "temporary", "operations / model's")
    head += ("compute s", "memory s", "wire s", "compiled in s")
    rows = [" | ".join(head), " | ".join("---" for _ in head)]
    for line in found:
        seconds = line["seconds"]
        total, temporary = (f"{line[name]:.2f}" if name in line else "" for name in ("total", "temporary"))
        fits = total if line["fits"] else f"**{total}**: does not fit"
        cells = [line["model"], line["topology"], line["task"], f"{line['batch']:,}", fits, f"{line['hbm']:.1f}"]
        cells += [temporary, f"{line['ratio']:.2f}"]
        cells += [f"{seconds[name]:.3g}" if name in seconds else "" for name in ("compute", "memory", "wire")]
        rows.append(" | ".join([*cells, str(line.get("compile_s", ""))]))
    return "\n".join(f"| {row} |" for row in rows) + "\n"


def check() -> list[str]:
    """What costs more than the table says and TOLERANCE allows, a line each."""
    from launch.compile import counted, plan  # not before it is needed: it has flags of its own

    wrong = []
    for line in tqdm([line for line in lines() if line["own_batch"]], unit="line"):
        about = [line[name] for name in ("experiment", "model", "config", "topology", "task")]
        if line.get("compile_s", CHEAP) < CHEAP:
            found = compile_line(*about, batch=line["batch"])
        else:
            config = importlib.import_module(f"configs.{line['config']}").get_config()
            config.model = line["model"]
            run = plan(line["experiment"], config, line["batch"])
            devices = topologies.get_topology_desc(line["topology"], platform="tpu").devices
            with jax.set_mesh(make_mesh(line["mesh"], devices)):
                found = counted(run, next(task for task in run.tasks if task.name == line["task"]))
        for name in MEASURES:
            if name in found and name in line and found[name] > line[name] * (1 + TOLERANCE):
                wrong.append(f"{' '.join(about)}: {name} was {line[name]:.4g} and is {found[name]:.4g}")
    return wrong


def main(_: list[str]) -> None:
    if CHECK.value:
        if wrong := check():
            sys.exit("\n".join(wrong))
    else:
        fill()


if __name__ == "__main__":
    app.run(main)
