"""Does the input pipeline keep up with a pod? One core's share of a step, beside what a core makes ready.

  python -m benchmarks.feeding [--seconds=20]

Of every step of experiments/scale.py in launch/compiled.jsonl: how long it takes at least (its products, or the bytes
between chips, at the chips' peaks), so how many pairs each vCPU of a TPU VM must make ready a second. Then a reading
process of this machine feeds a stand-in for the step, which only waits so long: the share of the time that the next
batch was late, and the pairs that the process makes ready a second when nothing holds it. The records are of full size,
made here: 512 tokens of prose a side, photos of one megapixel, 32 s of 640x360 video, 30 s of sound at 48 kHz.
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
from PIL import Image as Pillow

from embed.data import tokenizer
from embed.data.mixture import Batch, batches, mixture
from embed.data.modalities import Audio, Content, Image, Part, Text, Video
from embed.data.preprocess import Preprocessor
from embed.data.records import Record
from embed.data.tasks import texts
from embed.model.presets import PRESETS
from embed.toy_corpora import stdlib
from experiments import scale

STEPS = pathlib.Path(__file__).parents[1] / "launch" / "compiled.jsonl"
# vCPUs a chip of the VMs of four chips that slices are made of: ct5lp-hightpu-4t, ct5p-hightpu-4t, ct6e-standard-4t.
VCPUS = {"v5e": 112 / 4, "v5p": 208 / 4, "v6e": 180 / 4}
VARIANTS = 8  # different contents of a kind
PAIRS = 16  # of a batch here, or fewer; the share of a vCPU in a batch of thousands is a few


@dataclasses.dataclass(frozen=True)
class Records:
    """As many records as one likes, of some queries and targets in all combinations."""

    queries: tuple[Content, ...]
    targets: tuple[Content, ...]

    def __len__(self) -> int:
        return len(self.queries) * len(self.targets)

    def __getitem__(self, index: int) -> Record:
        query, target = divmod(index, len(self.targets))
        return Record(str(index), self.queries[query], self.targets[target])


def field(rng: np.random.Generator, height: int, width: int) -> Pillow.Image:
    """Soft colours with some grain: compresses about as a photo does."""
    coarse = Pillow.fromarray(rng.integers(0, 256, (height // 40, width // 40, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Pillow.Resampling.BICUBIC), np.int16)
    return Pillow.fromarray(np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8))


def photo(rng: np.random.Generator) -> Part:
    file = io.BytesIO()
    field(rng, 864, 1152).save(file, "JPEG", quality=90)
    return Image(file.getvalue())


def video(rng: np.random.Generator) -> Part:
    file, picture = io.BytesIO(), np.asarray(field(rng, 360, 1280))
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=24, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for number in range(24 * 32):
            moved = np.ascontiguousarray(picture[:, number % 640 : number % 640 + 640])
            out.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
        out.mux(stream.encode(None))
    return Video(file.getvalue())


def sound(rng: np.random.Generator) -> Part:
    file = io.BytesIO()
    soundfile.write(file, rng.normal(0, 0.1, 30 * 48_000), 48_000, format="OGG", subtype="VORBIS")
    return Audio(file.getvalue())


def sources(prose: list[str]) -> dict[str, Records]:
    """Of every task of experiments/scale.py, records as long as its budgets."""
    rng = np.random.default_rng(0)
    long = [" ".join(prose[i::VARIANTS])[:4000] for i in range(2 * VARIANTS)]
    captions = tuple((Text(text[:200]),) for text in long[:VARIANTS])
    made = {name: tuple((make(rng),) for _ in range(VARIANTS)) for name, make in MAKERS.items()}
    sides = tuple((Text(text),) for text in long)
    return {"text": Records(sides[:VARIANTS], sides[VARIANTS:])} | {
        name: Records(captions, targets) for name, targets in made.items()
    }


MAKERS = {"image": photo, "video": video, "audio": sound}


def needed(step: dict) -> float:
    """Pairs a second that a vCPU must make ready."""
    kind, shape = step["topology"].split(":")
    chips = math.prod(map(int, shape.split("x")))
    return step["batch"] / max(step["seconds"]["compute"], step["seconds"]["ici"]) / chips / VCPUS[kind]


def waited(reading: Iterator[Batch], step: float, seconds: float) -> float:
    """The share of the time that steps of so many seconds wait for their batches."""
    next(reading)  # starts the process
    late, begun = 0.0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        time.sleep(step)
        asked = time.perf_counter()
        next(reading)
        late += time.perf_counter() - asked
    return late / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    given = parser.parse_args()
    flags.FLAGS.mark_as_parsed()  # grain's processes ask for them
    prose = [text for record in stdlib.text_records("train") for text in texts(record)]
    words, records = tokenizer.train_tokenizer(prose, 32_768), sources(prose)
    rows = [json.loads(line) for line in STEPS.read_text().splitlines()]
    print("| model | slice | task | needed, pairs/s a vCPU | made ready | waiting |\n" + "|---" * 6 + "|", flush=True)
    for row in rows:
        if row["experiment"] != scale.NAME or not row["is_own_batch"]:
            continue
        preprocessor = Preprocessor(words, PRESETS[row["model"]].media)
        task = next(task for task in scale.TASKS if task.name == row["task"])
        rate = needed(row)
        data, some = (
            mixture([dataclasses.replace(task, batch=pairs)], [records[task.name]], preprocessor, 0)
            for pairs in (PAIRS, max(1, min(PAIRS, round(rate * given.seconds / 10))))  # at least ten steps
        )
        begin = time.process_time()
        data[0], data[1]
        made = 2 * PAIRS / (time.process_time() - begin)
        with contextlib.closing(batches(some, 0, 10_000, workers=1)) as reading:
            share = waited(reading, some[0][1].valid.size / rate, given.seconds)
        cells = [row["model"], row["topology"], task.name, f"{rate:.2f}", f"{made:.1f}", f"{share:.2%}"]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
