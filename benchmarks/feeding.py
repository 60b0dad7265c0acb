"""Does the input pipeline keep up with a pod? The pairs that a step needs per vCPU, beside those that one preprocesses.

  python -m benchmarks.feeding [--seconds=20]

For every step of experiments/scale.py in launch/compiled.jsonl, the least time that it takes (its FLOPs, or the bytes
between chips, at the chips' peaks) gives the pairs per second that each vCPU of a TPU VM must preprocess. A worker
process of this machine then feeds a stand-in for the step, which only sleeps for that time. Prints the share of time
that the step waited for its batch, and the pairs per second that the process reaches when nothing holds it back. The
records are full size and made here: 512 tokens of prose per text, one-megapixel photos, 32 s of 640x360 video, 30 s of
audio at 48 kHz.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import math
import pathlib
import time
from collections.abc import Iterator

import av
import numpy as np
import soundfile
from absl import flags
from grain import MapDataset
from PIL import Image as Pillow

from embed.data import tokenizer
from embed.data.mixture import Batch, iterate_batches, mixture
from embed.data.modalities import Audio, Content, Image, Part, Text, Video
from embed.data.preprocess import Preprocessor
from embed.data.records import Record
from embed.data.tasks import Task, collect_texts
from embed.model.presets import PRESETS
from embed.toy_corpora import stdlib
from experiments import scale

STEPS = pathlib.Path(__file__).parents[1] / "launch" / "compiled.jsonl"
# vCPUs per chip, of the four-chip VMs that slices are made of: ct5lp-hightpu-4t, ct5p-hightpu-4t, ct6e-standard-4t.
VCPUS = {"v5e": 112 / 4, "v5p": 208 / 4, "v6e": 180 / 4}
VARIANTS = 8  # different contents per modality
MAX_PAIRS = 16  # per batch here: the share of one vCPU in a batch of thousands is a few


@dataclasses.dataclass(frozen=True)
class Records:
    """All combinations of some queries and targets, as records."""

    queries: tuple[Content, ...]
    targets: tuple[Content, ...]

    def __len__(self) -> int:
        return len(self.queries) * len(self.targets)

    def __getitem__(self, index: int) -> Record:
        query, target = divmod(index, len(self.targets))
        return Record(str(index), self.queries[query], self.targets[target])


def make_texture(rng: np.random.Generator, height: int, width: int) -> Pillow.Image:
    """Return soft colors with some grain: it compresses about as well as a photo."""
    coarse = Pillow.fromarray(rng.integers(0, 256, (height // 40, width // 40, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Pillow.Resampling.BICUBIC), np.int16)
    return Pillow.fromarray(np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8))


def make_photo(rng: np.random.Generator) -> Part:
    file = io.BytesIO()
    make_texture(rng, 864, 1152).save(file, "JPEG", quality=90)
    return Image(file.getvalue())


def make_video(rng: np.random.Generator) -> Part:
    file = io.BytesIO()
    panorama = np.asarray(make_texture(rng, 360, 1280))
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=24, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for number in range(24 * 32):
            window = np.ascontiguousarray(panorama[:, number % 640 : number % 640 + 640])
            out.mux(stream.encode(av.VideoFrame.from_ndarray(window, format="rgb24")))
        out.mux(stream.encode(None))
    return Video(file.getvalue())


def make_audio(rng: np.random.Generator) -> Part:
    file = io.BytesIO()
    soundfile.write(file, rng.normal(0, 0.1, 30 * 48_000), 48_000, format="OGG", subtype="VORBIS")
    return Audio(file.getvalue())


def make_sources(prose: list[str]) -> dict[str, Records]:
    """Return records for every task of experiments/scale.py, as long as its budgets."""
    rng = np.random.default_rng(0)
    long = [" ".join(prose[i::VARIANTS])[:4000] for i in range(2 * VARIANTS)]
    captions = tuple((Text(text[:200]),) for text in long[:VARIANTS])
    media = {name: tuple((make(rng),) for _ in range(VARIANTS)) for name, make in MAKERS.items()}
    sides = tuple((Text(text),) for text in long)
    return {"text": Records(sides[:VARIANTS], sides[VARIANTS:])} | {
        name: Records(captions, targets) for name, targets in media.items()
    }


MAKERS = {"image": make_photo, "video": make_video, "audio": make_audio}


def needed_rate(step: dict) -> float:
    """Return the pairs per second that a vCPU must preprocess."""
    chip, shape = step["topology"].split(":")
    chips = math.prod(map(int, shape.split("x")))
    return step["batch"] / max(step["seconds"]["compute"], step["seconds"]["ici"]) / chips / VCPUS[chip]


def measure_wait(reader: Iterator[Batch], step_seconds: float, seconds: float) -> float:
    """Return the share of time that steps of `step_seconds` wait for their batches, over `seconds`."""
    next(reader)  # starts the process
    waited = 0.0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        time.sleep(step_seconds)
        step_end = time.perf_counter()
        next(reader)
        waited += time.perf_counter() - step_end
    return waited / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20, help="measured per step (default: %(default)s)")
    args = parser.parse_args()
    flags.FLAGS.mark_as_parsed()  # grain's processes read them
    prose = [text for record in stdlib.text_records("train") for text in collect_texts(record)]
    words = tokenizer.train_tokenizer(prose, 32_768)
    records = make_sources(prose)
    rows = [json.loads(line) for line in STEPS.read_text().splitlines()]
    print("| model | slice | task | needed, pairs/s per vCPU | reached | waiting |\n" + "|---" * 6 + "|", flush=True)
    for row in rows:
        if row["experiment"] != "scale" or not row["is_own_batch"]:
            continue
        preprocessor = Preprocessor(words, PRESETS[row["model"]].media)
        task = next(task for task in scale.TASKS if task.name == row["task"])
        rate = needed_rate(row)

        def make_batches(pairs: int, task: Task = task, preprocessor: Preprocessor = preprocessor) -> MapDataset:
            return mixture([dataclasses.replace(task, batch=pairs)], [records[task.name]], preprocessor, 0)

        data = make_batches(MAX_PAIRS)
        start = time.process_time()
        data[0], data[1]
        reached = 2 * MAX_PAIRS / (time.process_time() - start)
        steps = make_batches(max(1, min(MAX_PAIRS, round(rate * args.seconds / 10))))  # small enough for ten steps
        with contextlib.closing(iterate_batches(steps, 0, 10_000, workers=1)) as reader:
            share = measure_wait(reader, steps[0][1].valid.size / rate, args.seconds)
        cells = [row["model"], row["topology"], task.name, f"{rate:.2f}", f"{reached:.1f}", f"{share:.2%}"]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
