import json
import pathlib

import jax
import pytest
from conftest import ARCH

from embed import __main__ as command
from embed.data.preprocess import Preprocessor
from embed.eval import report_benchmarks
from embed.eval.published import select_benchmarks
from embed.eval.report_benchmarks import FORWARD, REVERSE, TABLES
from embed.model.build import build
from embed.model.encoder import init_params
from embed.training.config_check import ConfigError
from embed.training.metadata import metadata_for
from embed.training.weights import save_params


def lines(path: pathlib.Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def root(tmp_path):
    """Captions both ways, videos one way, and pages as corpus, queries and qrels; all of words."""
    pairs = [
        {"id": str(i), "query": [{"text": f"caption {i}"}], "positive": [{"text": f"image {i // 2}"}]} for i in range(6)
    ]
    lines(tmp_path / "all" / "mscoco" / "test.jsonl", pairs)
    lines(tmp_path / "all" / "mine" / "test.jsonl", pairs)
    pages = [{"id": f"p{i}", "content": [{"text": f"page {i}"}]} for i in range(30)]
    lines(tmp_path / "all" / "vidore_v2" / "corpus.jsonl", pages)
    lines(tmp_path / "all" / "vidore_v2" / "queries.jsonl", [{"id": "q", "content": [{"text": "page 3?"}]}])
    (tmp_path / "all" / "vidore_v2" / "qrels.tsv").write_text("q\tp3\t2\nq\tp4\t1\n")
    return tmp_path / "all"


def test_definitions_are_whole():
    assert len({one.name for one in TABLES}) == len({one.folder for one in TABLES}) == len(TABLES) == 16
    for one in TABLES:
        metric, _, k = one.metric.partition("@")
        assert int(k) in report_benchmarks.KS and metric in ("hit", "ndcg", "mrr")
        assert one.source.startswith("http") and one.split and one.contents and "," not in one.name
        assert FORWARD in one.report and set(one.report) <= {FORWARD, REVERSE}


def test_data_is_scored_the_ways_that_the_report_has(root):
    found = {one.name: report_benchmarks.load(one, root) for one in TABLES}
    assert [way.name for way in found["MSCOCO"]] == ["MSCOCO: query→target", "MSCOCO: target→query"]
    assert [len(grades) for grades in found["MSCOCO"][1].relevance] == [2, 2, 2]
    assert [way.name for way in found["ViDoRe V2"]] == ["ViDoRe V2: query→target"]
    assert found["ViDoRe V2"][0].relevance == ({3: 2, 4: 1},)
    assert not any(ways for name, ways in found.items() if name not in ("MSCOCO", "ViDoRe V2"))
    videos = report_benchmarks.under_protocol("Vatex", "mine")
    assert [way.name for way in report_benchmarks.load(videos, root)] == ["mine, as Vatex: query→target"]
    assert videos.metric == "ndcg@10" and videos.report == {FORWARD: None}


def test_what_is_there_is_scored_and_what_is_not_is_named(root, tmp_path, tokenizer, capsys, process_state):
    preprocessor = Preprocessor(tokenizer, ARCH.media)
    params = init_params(build(ARCH), jax.random.key(0))
    save_params(tmp_path / "run", params, metadata_for(ARCH, preprocessor), tokenizer)
    line = ["published", str(tmp_path / "run"), str(root), "--like", "mine:DOCCI", "--workdir", str(tmp_path)]
    assert command.main(line) == 0
    table, missing = capsys.readouterr().out.split("\n\n")
    shown = {row.split(" | ")[0].lstrip("| "): row.rstrip(" |").split(" | ") for row in table.splitlines()[2:]}
    assert list(shown) == [
        *("MSCOCO: query→target", "MSCOCO: target→query", "ViDoRe V2: query→target"),
        *("mine, as DOCCI: query→target", "mine, as DOCCI: target→query"),
    ]
    assert shown["MSCOCO: query→target"][1:5] == ["hit@1", "6", "3", "33.3"]
    assert shown["MSCOCO: query→target"][-1] == "62.9" and shown["ViDoRe V2: query→target"][-1] == "64.9"
    assert len(missing.splitlines()) == len(TABLES) - 2
    line = next(line for line in missing.splitlines() if line.startswith("Flickr30k"))
    assert str(root / "flickr30k") in line and "https://" in line and "positive: its image" in line
    kept = json.loads((tmp_path / "run" / "published.json").read_text())
    own = kept["mine, as DOCCI: query→target"][str(max(ARCH.matryoshka_dims))]
    assert f"{100 * own['hit@1']:.1f}" == shown["mine, as DOCCI: query→target"][5]
    assert own == kept["MSCOCO: query→target"][str(max(ARCH.matryoshka_dims))]


def test_a_protocol_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="'mine:COCO' is not FOLDER:NAME with a name of: MSCOCO, Flickr30k"):
        select_benchmarks(["mine:COCO"])
