"""Records per second that one core preprocesses, beside a torch DataLoader with transformers' processors.

  pip install -e ".[hf]"; python -m benchmarks.throughput FOLDER NAME [NAME ...] [--pairs=64] [--rounds=5]

Decodes and resizes both sides of a dataset's pairs, and makes patches, mel frames and token ids of them: with this
package, for the media of Gemma 4 E2B (`embed`); and with a torch Dataset that decodes with the same libraries and a
collate function that calls Gemma 4's image processor, feature extractor and a fast tokenizer, padding to the longest
(`torch`). Both take the same records in turn, in one thread of one process. Prints medians of CPU seconds.
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
from PIL import Image as Pillow

from embed.data import discover
from embed.data import tokenizer as tokenizers
from embed.data.budget import Budget
from embed.data.media.decode import sample_times
from embed.data.mixture import mixture
from embed.data.modalities import Audio, Content, Image, Pdf, Text, Video
from embed.data.preprocess import Preprocessor
from embed.data.records import Record
from embed.data.sources import Source, open_split
from embed.data.tasks import collect_texts
from embed.distributed import storage
from embed.model.presets import GEMMA4_E2B

MAX_BUDGET = Budget(8192, images=32, patches=280, clips=6, frames=750)
MAX_RECORDS = 2000  # of a dataset, that the tokenizer is trained on


class DecodedRecords:
    """A torch dataset of decoded records: per side, its texts, images and audio."""

    def __init__(self, source: Source):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> list[dict[str, list]]:
        record: Record = self.source[index]
        return [self.side(content) for content in (record.query, record.positive, *record.negatives[:1])]

    def side(self, content: Content) -> dict[str, list]:
        parts: dict[str, list] = {"texts": [], "images": [], "audio": []}
        for part in content:
            match part:
                case Text(text):
                    parts["texts"].append(text)
                case Image(data):
                    parts["images"].append(Pillow.open(io.BytesIO(data)).convert("RGB"))
                case Video(data):
                    parts["images"] += sample_frames(data)
                case Pdf(data):
                    parts["images"] += [page.render(scale=2).to_pil() for page in pypdfium2.PdfDocument(data)]
                case Audio(data):
                    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
                    parts["audio"].append(soxr.resample(samples.mean(axis=1), rate, 16_000))
        return parts


def sample_frames(data: bytes) -> list[Pillow.Image]:
    """Return one frame per second, as PyAV is commonly used for it: every frame is decoded, some are kept."""
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        frames = [(float(frame.time or 0), frame) for frame in container.decode(stream)]
    times = np.array([seconds for seconds, _ in frames])
    indices = np.searchsorted(times, sample_times(times[-1] + np.diff(times).mean(), 32) + 1e-6, side="right") - 1
    return [frames[i][1].to_image() for i in indices]


class Collate:
    """The collate function of a training script: one call of each processor per batch."""

    def __init__(self, preprocessor: Preprocessor, path: str):
        import transformers
        from transformers.models.gemma4.feature_extraction_gemma4 import Gemma4AudioFeatureExtractor
        from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

        self.tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=path, pad_token="<pad>")
        self.images, self.audio = (
            Gemma4ImageProcessorPil(max_soft_tokens=MAX_BUDGET.patches),
            Gemma4AudioFeatureExtractor(),
        )

    def __call__(self, batch: list[list[dict[str, list]]]) -> list[dict[str, Any]]:
        sides = [side for record in batch for side in record]
        out: list[dict[str, Any]] = [
            self.tokenizer([" ".join(side["texts"]) for side in sides], padding=True, return_tensors="pt")
        ]
        if images := [image for side in sides for image in side["images"]]:
            out.append(self.images(images, return_tensors="pt"))
        if audio := [samples for side in sides for samples in side["audio"]]:
            out.append(self.audio(audio, return_tensors="pt"))
        return out


def measure(folder: storage.Path, preprocessor: Preprocessor, path: str, pairs: int, rounds: int) -> str:
    """Return a row of the table."""
    import torch

    source = open_split(folder, "train")
    task = discover.make_task(folder, preprocessor, MAX_BUDGET, pairs)
    data = mixture([task], [source], preprocessor, seed=0)
    loader = torch.utils.data.DataLoader(
        DecodedRecords(source), task.batch, shuffle=True, drop_last=True, collate_fn=Collate(preprocessor, path)
    )
    rates: dict[str, list[float]] = {"embed": [], "torch": []}
    batches = iter(loader)
    next(batches)
    for step in range(rounds):
        begin = time.process_time()
        data[step]
        middle = time.process_time()
        if next(batches, None) is None:
            batches = iter(loader)
            middle = time.process_time()
            next(batches)
        end = time.process_time()
        rates["embed"].append(task.batch / (middle - begin))
        rates["torch"].append(task.batch / (end - middle))
    ours = statistics.median(rates["embed"])
    theirs = statistics.median(rates["torch"])
    return f"| {folder.name} | {ours:,.0f} | {theirs:,.0f} | {ours / theirs:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", type=storage.path, help="a folder of datasets")
    parser.add_argument("names", metavar="NAME", nargs="+", help="a dataset in it with a train split")
    parser.add_argument("--pairs", type=int, default=64, help="pairs per batch (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, whose median is printed (default: %(default)s)")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    print("| dataset | embed, records/s | torch, records/s | ratio |\n|---|---|---|---|", flush=True)
    for name in args.names:
        source = open_split(args.folder / name, "train")
        words = [text for i in range(min(MAX_RECORDS, len(source))) for text in collect_texts(source[i])]
        tokenizer = tokenizers.train_tokenizer(words or ["a"], 4096)
        path = storage.cache() / "benchmark" / "tokenizer.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        tokenizer.save(path)
        print(
            measure(args.folder / name, Preprocessor(tokenizer, GEMMA4_E2B.media), str(path), args.pairs, args.rounds)
        )


if __name__ == "__main__":
    main()
