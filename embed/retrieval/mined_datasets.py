"""Your datasets with mined hard negatives: what `python -m embed mine` writes."""

import dataclasses
import logging
from collections.abc import Iterator, Sequence

import numpy as np

from embed.data.discover import require_datasets
from embed.data.records import Record, to_bytes
from embed.data.sources import Source, list_splits, open_split
from embed.data.writing import write_shards
from embed.distributed import hosts, storage
from embed.embedder import Embedder
from embed.retrieval.corpus_embeddings import PairTable, embed_contents, read_pairs
from embed.retrieval.hard_negatives import NONE, Mined, MiningRule, mine

log = logging.getLogger(__name__)
DEFAULT_RULE = MiningRule(count=4, depth=400, positive_ratio=0.95)
MAX_TEXT_TOKENS = 128  # of a content; longer texts are truncated


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Prompts of text when it is embedded for mining: a query task's name, and "document"; None for none.

    Give them where the encoder was trained with prompts.
    """

    query: str | None = None
    document: str | None = None


def mine_datasets(
    embedders: Sequence[Embedder],
    pairs: str,
    out: storage.Path,
    provenance: str,
    rule: MiningRule = DEFAULT_RULE,
    prompts: Prompts = Prompts(),
) -> dict[str, tuple[PairTable, Mined]]:
    """Mine hard negatives for every dataset under `pairs` with a train split; write OUT/NAME with them.

    Rankings of several embedders are fused. Items of a dataset's `corpus` split are candidates too. `provenance` is
    noted in the records. Vectors are cached, so that a second run with another rule is fast. Returns what was mined, by
    dataset. All hosts call this. Raises FileNotFoundError where there is no dataset.
    """
    mined = {}
    for folder in require_datasets(pairs, "train"):
        source = open_split(folder, "train")
        table = read_pairs(source, open_split(folder, "corpus") if "corpus" in list_splits(folder) else None)
        log.info("%s: %d queries, %d candidates", folder.name, len(table.queries), len(table.corpus))
        queries = [embed_contents(embedder, table.queries, prompts.query, MAX_TEXT_TOKENS) for embedder in embedders]
        corpora = [embed_contents(embedder, table.corpus, prompts.document, MAX_TEXT_TOKENS) for embedder in embedders]
        scorers = [(query, corpus) for (query, _), (corpus, _) in zip(queries, corpora, strict=True)]
        is_embedded = corpora[0][1]
        result = mine(table, scorers, is_embedded, rule)
        if hosts.is_primary():
            write_shards(out / folder.name, "train", with_negatives(source, table, result.negatives, provenance))
            share = 100 * (result.negatives[:, 0] != NONE).mean()
            log.info("%s: %.0f %% of the records have negatives", folder.name, share)
        mined[folder.name] = table, result
    return mined


def with_negatives(source: Source, table: PairTable, negatives: np.ndarray, provenance: str) -> Iterator[bytes]:
    """Yield a table's records with the negatives i32[r,count] (indices in its corpus); a record for which none were
    found keeps its own."""
    for number, indices in zip(table.records.tolist(), negatives.tolist(), strict=True):
        record: Record = source[number]
        if contents := tuple(table.corpus[index] for index in indices if index != NONE):
            record = dataclasses.replace(
                record, negatives=contents, provenance=record.provenance | {"negatives": provenance}
            )
        yield to_bytes(record)
