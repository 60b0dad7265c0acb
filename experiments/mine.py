"""Hard negatives for datasets of your own, found by a trained encoder: new datasets with them, and a page to look at.

Every folder under --config.pairs with a train split gives one under WORKDIR/mined; items of a `corpus` split there are
candidates too. Vectors are kept, so a second run with another rule is quick.
  run   python -m experiments.mine --config.pairs=FOLDER --config.checkpoint=runs/soup_greedy
  then  python -m experiments.own_data --config.pairs=runs/mined
"""

import dataclasses
import logging
from collections.abc import Iterator

import numpy as np
from ml_collections import ConfigDict

from embed.data.discover import require_datasets
from embed.data.records import Record, to_bytes
from embed.data.sources import Source, open_split, splits_in, write_shards
from embed.distributed import hosts, storage
from embed.embedder import Embedder
from embed.report import audit
from embed.retrieval.corpus_embeddings import PairTable, embed_contents, read_pairs
from embed.retrieval.hard_negatives import NONE, MiningRule, mine
from embed.training import checkpoint
from embed.training.config_check import require_checkpoint
from embed.training.main import run

log = logging.getLogger(__name__)
NAME = "mined"
RULE = MiningRule(count=4, depth=400, positive_ratio=0.95)
SECOND = ""  # another checkpoint, whose ranking is fused with the first one's
QUERY, DOCUMENT = (
    None,
    None,
)  # prompts of text: a task's name and "document", where the checkpoint was trained with them
TOKENS = 128  # of a text; longer ones are cut
SHOWN = 8  # records of each dataset on the page


def negatives(source: Source, found: PairTable, chosen: np.ndarray, by: str) -> Iterator[bytes]:
    """The records of a scan with the negatives chosen, i32[r,count], or their own where none were found."""
    for number, places in zip(found.records.tolist(), chosen.tolist(), strict=True):
        record: Record = source[number]
        if others := tuple(found.corpus[place] for place in places if place != NONE):
            told = record.provenance | {"negatives": by}
            record = dataclasses.replace(record, negatives=others, provenance=told)
        yield to_bytes(record)


def main(config: ConfigDict) -> None:
    path = require_checkpoint(config)
    folders = require_datasets(config.pairs, "train")
    embedders = [Embedder.load(one) for one in (path, SECOND) if one]
    by = f"{storage.absolute(path)} {checkpoint.fingerprint(embedders[0].params)}"
    out, pages = storage.path(config.workdir) / NAME, {}
    for folder in folders:
        source = open_split(folder, "train")
        found = read_pairs(source, open_split(folder, "corpus") if "corpus" in splits_in(folder) else None)
        log.info("%s: %d queries, %d candidates", folder.name, len(found.queries), len(found.corpus))
        sides = [
            (embed_contents(one, found.queries, QUERY, TOKENS), embed_contents(one, found.corpus, DOCUMENT, TOKENS))
            for one in embedders
        ]
        known = sides[0][1][1]
        mined = mine(found, [(asked, corpus) for (asked, _), (corpus, _) in sides], known, RULE)
        pages[folder.name] = found, mined
        if hosts.is_primary():
            write_shards(out / folder.name, "train", negatives(source, found, mined.negatives, by))
            log.info(
                "%s: %.0f %% of the records have negatives", folder.name, 100 * (mined.negatives[:, 0] != NONE).mean()
            )
    if hosts.is_primary():
        facts = {
            "by": config.checkpoint,
            "share of the positive's score": f"{RULE.positive_ratio}",
            "depth": f"{RULE.depth}",
        }
        audit.write(out / "audit.html", facts, pages, SHOWN)
        print(f"Datasets with mined negatives, and a page to look at: {storage.absolute(out / 'audit.html')}")


if __name__ == "__main__":
    run(main)
