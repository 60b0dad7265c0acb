"""Compile the table of what the report's batches take on TPU slices: models x slices x tasks.

  python -m launch.table            # compiles what launch/compiled.jsonl lacks, and writes launch/compiled.md
  python -m launch.table --check    # compares with the table; status 1 where a measure is more than 5 % above it

To compile a line again, delete it from launch/compiled.jsonl. The check covers the FLOPs of every task's own batch, and
the memory of those that compile in seconds.
"""

import argparse
import importlib
import json
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import jax
from tqdm import tqdm

from embed.distributed.mesh import make_mesh
from launch.tpu_slice import slice_devices

TABLE = pathlib.Path(__file__).with_name("compiled.jsonl")
PAGE = TABLE.with_suffix(".md")
KEY = ("experiment", "model", "config", "topology", "task")
TASKS = ("text", "image", "video", "audio")
SLICES = (  # of experiments/scale.py: model, config, slice
    ("embeddinggemma2", "tpu_v5e_16", "v5e:4x4"),
    ("embeddinggemma2", "tpu_v6e_256", "v6e:16x16"),
    ("gemma4_e2b", "tpu_v5p_64", "v5p:4x4x4"),
    ("gemma4_e4b", "tpu_v5p_64", "v5p:4x4x4"),
    ("gemma4_12b", "tpu_v5p_128", "v5p:4x4x8"),
)
SMALL = ("tiny", "cpu", "v5e:2x2")  # of experiments/finetune.py: quick to compile
SECOND_BATCH = 1 << 16  # pairs, of the second text batch, from which the largest is extrapolated
MAX_BATCH = 1 << 20  # pairs; larger batches are not tried
RECOMPILED_BELOW = 30  # seconds; the check compiles lines again that took less
TOLERANCE = 0.05
CHECKED = ("flops", "total_gib", "temporary_gib")


def keys() -> list[tuple[str, ...]]:
    """Return the KEY of every line with a task's own batch."""
    lines = [("scale", *row, task) for row in SLICES for task in TASKS]
    return lines + [("finetune", *SMALL, task) for task in ("stdlib_text", "scenes_image", "scenes_audio")]


def compile_line(experiment: str, model: str, config: str, topology: str, task: str, batch: int = 0) -> dict[str, Any]:
    """Return one line, compiled in a process of its own. Raises CalledProcessError where that fails."""
    with tempfile.NamedTemporaryFile() as out:
        command = [sys.executable, "-m", "launch.compile", experiment, f"--config=configs/{config}.py"]
        command += [f"--config.model={model}", f"--topology={topology}", f"--task={task}", f"--batch={batch}"]
        subprocess.run([*command, f"--out={out.name}"], check=True, stdout=subprocess.DEVNULL)
        return {"config": config} | json.loads(out.read())


def read_table() -> list[dict[str, Any]]:
    """Return the lines of the table."""
    return [json.loads(line) for line in TABLE.read_text().splitlines()] if TABLE.exists() else []


def find_or_compile(*key: str, batch: int = 0) -> dict[str, Any]:
    """Return the line of a key and of a batch (0: the task's own), compiled and added where the table lacks it."""
    for line in read_table():
        if key == tuple(line[name] for name in KEY) and (line["batch"] == batch if batch else line["is_own_batch"]):
            return line
    line = compile_line(*key, batch=batch) | {"is_own_batch": batch == 0}
    with TABLE.open("a") as file:
        file.write(json.dumps(line) + "\n")
    return line


def largest_batch(*key: str) -> int:
    """Return the largest batch, a power of two, expected to fit: memory is linear in the number of pairs."""
    small = find_or_compile(*key)
    large = find_or_compile(*key, batch=SECOND_BATCH)
    if not large["fits"]:
        return small["batch"]
    gib_per_pair = (large["total_gib"] - small["total_gib"]) / (SECOND_BATCH - small["batch"])
    pairs = int((large["hbm_gib"] - small["total_gib"]) / max(gib_per_pair, 1e-9)) + small["batch"]
    return min(1 << (pairs.bit_length() - 1), MAX_BATCH)


def fill_table() -> None:
    """Compile what the table lacks, with a second and the largest batch of text, and write the page."""
    for key in tqdm(keys(), unit="line"):
        find_or_compile(*key)
        if key[-1] == "text" and not find_or_compile(*key, batch=(batch := largest_batch(*key)))["fits"]:
            raise SystemExit(f"{key}: {batch} pairs were expected to fit, and do not")
    PAGE.write_text(format_page(read_table()))
    print(PAGE.read_text())


def format_page(lines: list[dict[str, Any]]) -> str:
    """Return the table in Markdown."""
    head = ("model", "slice", "task", "pairs", "GiB per chip", "of", "temporary GiB", "FLOPs / model's")
    head += ("compute s", "HBM s", "ICI s", "compiled in s")
    rows = [" | ".join(head), " | ".join("---" for _ in head)]
    for line in lines:
        seconds = line["seconds"]
        total = f"{line['total_gib']:.2f}"
        temporary = f"{line['temporary_gib']:.2f}" if "temporary_gib" in line else ""
        fits = total if line["fits"] else f"**{total}**: does not fit"
        cells = [line["model"], line["topology"], line["task"], f"{line['batch']:,}", fits, f"{line['hbm_gib']:.1f}"]
        cells += [temporary, f"{line['flops_ratio']:.2f}"]
        cells += [f"{seconds[name]:.3g}" if name in seconds else "" for name in ("compute", "hbm", "ici")]
        rows.append(" | ".join([*cells, str(line.get("compile_s", ""))]))
    return "\n".join(f"| {row} |" for row in rows) + "\n"


def check_table() -> list[str]:
    """Return one message per measure that is more than TOLERANCE above the table's."""
    from launch.compile import count_flops, load_plan  # importing it defines flags

    messages = []
    for line in tqdm([line for line in read_table() if line["is_own_batch"]], unit="line"):
        key = [line[name] for name in KEY]
        if line.get("compile_s", RECOMPILED_BELOW) < RECOMPILED_BELOW:
            measures = compile_line(*key, batch=line["batch"])
        else:
            config = importlib.import_module(f"configs.{line['config']}").get_config()
            config.model = line["model"]
            run = load_plan(line["experiment"], config, line["batch"])
            task = next(task for task in run.tasks if task.name == line["task"])
            with jax.set_mesh(make_mesh(line["mesh"], slice_devices(line["topology"]))):
                measures = count_flops(run, task)
        for name in CHECKED:
            if name in measures and name in line and measures[name] > line[name] * (1 + TOLERANCE):
                messages.append(f"{' '.join(key)}: {name} was {line[name]:.4g} and is {measures[name]:.4g}")
    return messages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the table instead of adding to it")
    if parser.parse_args().check:
        if messages := check_table():
            sys.exit("\n".join(messages))
    else:
        fill_table()


if __name__ == "__main__":
    main()
