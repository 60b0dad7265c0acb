"""Records a second that one core makes ready to train on, beside a torch DataLoader with transformers' processors.

  python -m benchmarks.throughput FOLDER NAME [NAME ...] [--pairs=64] [--rounds=5]      (extra [hf])

Of each dataset under FOLDER: both sides of its pairs decoded, resized, turned to patches, mel frames and ids, and put
into arrays, by this package for the media of Gemma 4 E2B (`ours`), and by a torch Dataset that decodes with the same
libraries and a collate function that calls Gemma 4's image processor, feature extractor and a fast tokenizer, padding
to the longest (`torch`). One process, one thread, the same records, in turn; seconds are the processor's; medians.
"""

import argparse
import io
import statistics
import time
from typing import Any

import av
import numpy as np
import pypdfium2
import soundfile
import soxr
import torch
import transformers
from PIL import Image as Pillow
from transformers.models.gemma4.feature_extraction_gemma4 import Gemma4AudioFeatureExtractor
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

from embed.data import discover
from embed.data import tokenizer as tokenizers
from embed.data.budget import Budget
from embed.data.media.decode import sample_times
from embed.data.mixture import mixture
from embed.data.modalities import Audio, Content, Image, Pdf, Text, Video
from embed.data.preprocess import Preprocessor
from embed.data.records import Record
from embed.data.sources import Source, open_split
from embed.data.tasks import texts
from embed.distributed import storage
from embed.model.presets import GEMMA4_E2B

MOST = Budget(8192, images=32, patches=280, clips=6, frames=750)
READ = 2000  # records of a dataset that the tokenizer is trained on


class Records(torch.utils.data.Dataset):
    """Decoded records: of each side its texts, pictures and sounds."""

    def __init__(self, source: Source):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> list[dict[str, list]]:
        record: Record = self.source[index]
        return [self.side(content) for content in (record.query, record.positive, *record.negatives[:1])]

    def side(self, content: Content) -> dict[str, list]:
        found: dict[str, list] = {"texts": [], "pictures": [], "sounds": []}
        for part in content:
            match part:
                case Text(text):
                    found["texts"].append(text)
                case Image(data):
                    found["pictures"].append(Pillow.open(io.BytesIO(data)).convert("RGB"))
                case Video(data):
                    found["pictures"] += frames(data)
                case Pdf(data):
                    found["pictures"] += [page.render(scale=2).to_pil() for page in pypdfium2.PdfDocument(data)]
                case Audio(data):
                    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
                    found["sounds"].append(soxr.resample(samples.mean(axis=1), rate, 16_000))
        return found


def frames(data: bytes) -> list[Pillow.Image]:
    """One a second, as PyAV is used for it: every frame decoded, some kept."""
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        found = [(float(frame.time or 0), frame) for frame in container.decode(stream)]
    times = np.array([at for at, _ in found])
    wanted = np.searchsorted(times, sample_times(times[-1] + np.diff(times).mean(), 32) + 1e-6, side="right") - 1
    return [found[i][1].to_image() for i in wanted]


class Collate:
    """What a training script does with a batch of decoded records: one call of each processor."""

    def __init__(self, preprocessor: Preprocessor, path: str):
        self.tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=path, pad_token="<pad>")
        self.images, self.audio = Gemma4ImageProcessorPil(max_soft_tokens=MOST.patches), Gemma4AudioFeatureExtractor()

    def __call__(self, batch: list[list[dict[str, list]]]) -> list[dict[str, Any]]:
        sides = [side for record in batch for side in record]
        out: list[dict[str, Any]] = [
            self.tokenizer([" ".join(side["texts"]) for side in sides], padding=True, return_tensors="pt")
        ]
        if pictures := [picture for side in sides for picture in side["pictures"]]:
            out.append(self.images(pictures, return_tensors="pt"))
        if sounds := [sound for side in sides for sound in side["sounds"]]:
            out.append(self.audio(sounds, return_tensors="pt"))
        return out


def measure(folder: storage.Path, preprocessor: Preprocessor, path: str, pairs: int, rounds: int) -> str:
    """A row of the table."""
    source = open_split(folder, "train")
    task = discover.make_task(folder, preprocessor, MOST, pairs)
    ours = mixture([task], [source], preprocessor, seed=0)
    theirs = torch.utils.data.DataLoader(
        Records(source), task.batch, shuffle=True, drop_last=True, collate_fn=Collate(preprocessor, path)
    )
    rates: dict[str, list[float]] = {"ours": [], "torch": []}
    batches = iter(theirs)
    next(batches)
    for step in range(rounds):
        begin = time.process_time()
        ours[step]
        middle = time.process_time()
        if next(batches, None) is None:
            batches = iter(theirs)
            middle = time.process_time()
            next(batches)
        end = time.process_time()
        rates["ours"].append(task.batch / (middle - begin))
        rates["torch"].append(task.batch / (end - middle))
    a, b = (statistics.median(rates[name]) for name in ("ours", "torch"))
    return f"| {folder.name} | {a:,.0f} | {b:,.0f} | {a / b:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=storage.path)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| dataset | ours, records/s | torch, records/s | ratio |\n|---|---|---|---|", flush=True)
    for name in given.names:
        source = open_split(given.folder / name, "train")
        words = [text for i in range(min(READ, len(source))) for text in texts(source[i])]
        tokenizer = tokenizers.train_tokenizer(words or ["a"], 4096)
        path = storage.cache() / "benchmark" / "tokenizer.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        tokenizer.save(path)
        print(
            measure(
                given.folder / name, Preprocessor(tokenizer, GEMMA4_E2B.media), str(path), given.pairs, given.rounds
            )
        )


if __name__ == "__main__":
    main()
