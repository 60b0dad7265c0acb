import html.parser
import io
import json
import re
import shutil

import av
import numpy as np
import pypdfium2
import pytest
import soundfile
from PIL import Image as Pillow

from embed.data.modalities import Audio, Image, Pdf, Text, Video
from embed.data.records import Record
from embed.eval import compare
from embed.eval.benchmarks import from_pairs, rank, score
from embed.eval.metrics import wilson_interval
from embed.model.matryoshka import truncate_dim
from embed.report import charts, draw, examples, page, space, table
from embed.report.runs import read_curves
from embed.report.workdir import select_scored

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;\x00\x1b http://evil.example/"
VOID = {"meta", "img", "input", "source", "br", "wbr"}


class Page(html.parser.HTMLParser):
    """Checks that tags balance, and collects attributes and text."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def png(size: int) -> bytes:
    out = io.BytesIO()
    Pillow.fromarray(np.random.default_rng(size).integers(0, 255, (size, size, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


def wav(seconds: float) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, np.sin(np.arange(int(16_000 * seconds)) / 9).astype(np.float32) / 2, 16_000, format="WAV")
    return out.getvalue()


def clip(frames: int) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        for i in range(frames):
            pixels = np.full((64, 64, 3), i * 9 % 255, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return out.getvalue()


def pdf() -> bytes:
    document = pypdfium2.PdfDocument.new()
    document.new_page(200, 300)
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def ablation() -> compare.Comparison:
    columns = {
        name: [{"b": {8: {"ndcg@10": (one + seed) / 9}}} for seed in range(3)]
        for one, name in enumerate(("parent", HOSTILE, "c" * 60))
    }
    return compare.Comparison(HOSTILE, HOSTILE, columns, {HOSTILE: [("b", 8, "ndcg@10")]})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    everything = {
        "image": (Image(png(200)),),
        "tiny": (Image(png(32)),),
        "audio": (Audio(wav(1)),),
        "video": (Video(clip(25)),),
        "pdf": (Pdf(pdf()),),
        "code": (Text("def f(x):\n    return x < 1"),),
        "mixed": (Text("this, but blue"), Image(png(40)), Text("please")),
        "broken": (Image(b"not an image"),),
        "hostile": (Text(HOSTILE),),
    }
    records = [Record(key, (Text(f"query of {key}"),), target) for key, target in everything.items()]
    benchmarks = [*from_pairs(f"all {HOSTILE}", records), *from_pairs("again", records[:6], group=HOSTILE)]
    rng = np.random.default_rng(0)
    columns, gallery, vectors = {}, [], {}
    for column in ("first", HOSTILE):
        columns[column] = {}
        for benchmark in benchmarks:
            sides = [rng.normal(size=(len(s), 16)).astype(np.float32) for s in (benchmark.queries, benchmark.corpus)]
            columns[column][benchmark.name] = score(benchmark, *sides, (8, 16))
            vectors[benchmark.name] = sides
            gallery += examples.select_evenly(benchmark, *sides, 20)
    del columns["first"][benchmarks[-1].name]  # a checkpoint that was not scored on everything
    run = folder / "stage"
    run.mkdir()
    rows = [{"step": i, "task": HOSTILE, "loss": 3 / (i + 1), "accuracy": i / 30} for i in range(30)]
    rows[7]["loss"] = float("nan")
    rows += [{"step": 10 * i, f"eval/dev/{HOSTILE}": i / 4, "eval/dev/b": i / 9} for i in range(4)]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 30, "ta')
    path = folder / "deep" / "report.html"
    report = page.Report(
        columns,
        benchmarks,
        facts={"commit": HOSTILE + "\ud800"},
        config={"model": HOSTILE},
        descriptions={f"all {HOSTILE}".partition(":")[0]: HOSTILE},
        lineage=[
            {"checkpoint": HOSTILE, "from": f"1 × {HOSTILE}/3 + 2 × parent__fork/4"},
            {"checkpoint": "b", "from": HOSTILE, "code": "1"},
        ],
        curves=[read_curves(run)],
        best={"image": gallery[0], "text": gallery[-1], HOSTILE: gallery[3]},
        examples=gallery,
        failures=[example for b in benchmarks for example in examples.select_failures(b, *vectors[b.name], 1)],
        projection=space.project(benchmarks, [vectors[b.name] for b in benchmarks]),
        comparisons=[ablation()],
    )
    page.write(path, report)
    text = path.read_text(encoding="utf-8")
    return text, Page(text), benchmarks, gallery


# What reaches past the window and is in nothing that scrolls by itself, for the message.
TOO_WIDE = """[...document.querySelectorAll("main *, header *")].filter(one => {
  for (let box = one; box; box = box.parentElement)
    if (/auto|scroll|hidden/.test(getComputedStyle(box).overflowX)) return false;
  return one.getBoundingClientRect().right > innerWidth;
}).map(one => one.tagName + "." + one.className + ": " + one.textContent.slice(0, 40))"""


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install '.[browser]'")
    program = shutil.which("chromium") or shutil.which("google-chrome") or pytest.skip("needs Chromium on the PATH")
    with sync_api.sync_playwright() as play:
        found = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
def test_in_a_browser_nothing_is_amiss(made, browser, tmp_path, width, theme):
    (tmp_path / "report.html").write_text(made[0], encoding="utf-8")
    tab = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=theme)
    said: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("requestfailed", lambda request: said.append(request.url[:99]))
    tab.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    tab.goto((tmp_path / "report.html").as_uri())
    folded = tab.evaluate("document.documentElement.scrollHeight")
    tab.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert tab.evaluate("document.documentElement.scrollHeight") > 2 * folded
    assert said == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width, tab.evaluate(TOO_WIDE)
    assert tab.evaluate("[...document.images].every(one => one.complete && one.naturalWidth)")
    tab.emulate_media(color_scheme=theme, reduced_motion="reduce")  # no smooth scrolling
    for link in tab.query_selector_all("nav a"):
        link.click()
        assert tab.evaluate("document.querySelector(location.hash).getBoundingClientRect().top") < 844
    colours = tab.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
    ink, ground = (int(re.findall(r"\d+", colour)[0]) for colour in colours)
    assert (ink > ground) == (theme == "dark")
    tab.close()


def test_tags_balance_and_hostile_text_stays_text(made):
    text, parsed, _, _ = made
    assert "script" not in parsed.tags and not any(name.startswith("on") for _, name, _ in parsed.attributes)
    assert "<script" not in text and "\x00" not in text and "\x1b" not in text
    assert parsed.text.count("<script>alert(1)</script>") > 10


def test_needs_no_other_file(made):
    text, parsed, _, _ = made
    assert all(
        value.startswith("#" if tag == "a" else "data:")
        for tag, name, value in parsed.attributes
        if name in ("src", "srcset", "href", "poster")
    )
    style = re.sub(r"<p.*?</p>", "", "".join(re.findall(r"<style>(.*?)</style>", text, re.S)))
    assert "url(" not in style and "@import" not in style and "link" not in parsed.tags and "iframe" not in parsed.tags
    assert ("meta", "http-equiv", "Content-Security-Policy") in parsed.attributes


def test_shows_every_benchmark_and_example(made):
    text, parsed, benchmarks, gallery = made
    assert len(gallery) == 2 * sum(len(b.queries) for b in benchmarks)
    shown, wrong = text.split('id="failures"')
    assert shown.count('<article class="example') == len(gallery) and 0 < wrong.count("<article") <= len(benchmarks)
    assert shown.count("<circle") > 20 and "<image " in shown and 'id="space"' in shown and 'id="checkpoints"' in shown
    assert shown.count('<article class="card"') == 3 and shown.index('class="card"') < shown.index("<table")
    assert "evaluation: dev/" in shown and "2 × fork/4" in shown.replace("<wbr>", "")
    assert "2 × parent__fork/4" in shown.replace("<wbr>", "")
    for benchmark in benchmarks:
        assert draw.escape(benchmark.name) in text
    for kind in ("image/png", "image/webp", "audio/mpeg"):
        assert f"data:{kind};base64," in text
    assert 'class="pixels"' in text and "film strip" in text and "cannot be drawn" in text and "<pre" in text
    assert "return x &lt; 1" in text and "query of mixed" in parsed.text
    assert text.count('class="result right') >= len(gallery)  # also where none is among the first five


def test_examples_are_ranked_as_the_scores_are():
    records = [Record(str(i), (Text(f"q{i}"),), (Text(f"t{i}"),)) for i in range(30)]
    forward, _ = from_pairs("x", records)
    rng = np.random.default_rng(3)
    queries, corpus = (rng.normal(size=(30, 8)).astype(np.float32) for _ in range(2))
    scores, ranking = rank(forward, queries, corpus, 30, 8)
    for example in examples.select_evenly(forward, queries, corpus, 7):
        i = forward.queries.index(example.query)
        assert [r.content for r in example.results[:5]] == [forward.corpus[j] for j in ranking[i, :5]]
        np.testing.assert_allclose([r.score for r in example.results[:5]], scores[i, :5], atol=1e-6)
        right = [r for r in example.results if r.relevant]
        assert right[0].rank == ranking[i].tolist().index(i) + 1 and len(right) == 1


def test_failures_are_the_queries_that_are_wrong_by_most():
    records = [Record(str(i), (Text(f"q{i}"),), (Text(f"t{i}"),)) for i in range(40)]
    forward, _ = from_pairs("x", records)
    rng = np.random.default_rng(5)
    queries = rng.normal(size=(40, 8)).astype(np.float32)
    corpus = queries + rng.normal(0, 1.0, (40, 8)).astype(np.float32)
    cosines = truncate_dim(queries, 8).astype(np.float64) @ truncate_dim(corpus, 8).T.astype(np.float64)
    above = cosines.max(axis=1) - np.diag(cosines)
    found = examples.select_failures(forward, queries, corpus, 5)
    assert [forward.queries.index(one.query) for one in found] == np.argsort(-above)[:5].tolist()
    assert not any(one.results[0].relevant for one in found)
    assert examples.select_failures(forward, queries, queries, 5) == []


def test_the_gap_is_what_lies_between_the_sides():
    records = [Record(str(i), (Text(f"q{i}"),), (Image(png(8 + i)),)) for i in range(12)]
    forward, _ = from_pairs("x", records)
    rng = np.random.default_rng(6)
    queries = truncate_dim(rng.normal(size=(12, 8)).astype(np.float32), 8)
    close = space.project([forward], [(queries, queries)])
    assert close.gaps[0].centroids == pytest.approx(0, abs=1e-6) and close.gaps[0].relevant == pytest.approx(
        0, abs=1e-3
    )
    far = space.project([forward], [(queries, queries - np.float32([9, 0, 0, 0, 0, 0, 0, 0]))])
    assert far.gaps[0].centroids > 0.9 and far.modalities.count("image") == far.modalities.count("text") == 12
    sides = np.array([kind == "image" for kind in far.modalities])
    assert (
        far.points[sides, 0].max() < far.points[~sides, 0].min()
        or far.points[sides, 0].min() > far.points[~sides, 0].max()
    )
    assert 0 < far.explained <= 1 and "<image " in space.section(far)


def test_parts_keep_their_order_and_long_ones_are_cut():
    drawn = draw.content((Text("one"), Image(png(8)), Text("two " * 5000), Audio(wav(20))))
    assert drawn.index("one") < drawn.index("<img") < drawn.index("two two") < drawn.index("<audio")
    assert " …</p>" in drawn and "first 12 s kept" in drawn and len(drawn) < 120_000
    assert 'width="8"' in drawn and 'class="pixels"' in drawn


def test_charts_take_odd_numbers():
    odd = charts.Line("odd", "red", [0, 1, 2], [float("nan"), float("inf"), 1.0])
    assert charts.chart("x", [], x_label="step") == ""
    assert charts.chart("x", [charts.Line("none", "red", [0], [float("nan")])], x_label="step", noisy=True) == ""
    for flat in (odd, charts.Line("flat", "red", range(500), [2.0] * 500), charts.Line("one", "red", [64], [0.5])):
        drawn = charts.chart("x", [flat], x_label="step", noisy=len(flat.xs) != 1)
        assert "nan" not in drawn and "inf" not in drawn and len(drawn) < 20_000


def test_an_empty_report_is_a_page(tmp_path):
    page.write(tmp_path / "r.html", page.Report({}, []))
    assert "One encoder" in Page((tmp_path / "r.html").read_text()).text


def test_one_checkpoint_is_a_page(tmp_path):
    forward, _ = from_pairs("x", [Record(str(i), (Text(f"q{i}"),), (Text(f"t{i}"),)) for i in range(4)])
    vectors = np.eye(4, dtype=np.float32)
    page.write(
        tmp_path / "r.html", page.Report({"first": {forward.name: score(forward, vectors, vectors, (2, 4))}}, [forward])
    )
    text = Page((tmp_path / "r.html").read_text()).text
    assert "100.0" in text and "51–100" in text and "25.0" in text


def test_baselines_are_columns_after_the_checkpoints_and_have_no_widths(tmp_path):
    both = from_pairs("a", [Record("x", (Text("1"),), (Text("2"),)), Record("y", (Text("3"),), (Text("4"),))])
    vectors = np.eye(2, dtype=np.float32)
    columns = {"run": {b.name: score(b, vectors, vectors, (1, 2)) for b in both}}
    baselines = {"bm25": {both[0].name: {0: score(both[0], vectors, vectors, (2,))[2]}}}
    page.write(tmp_path / "r.html", page.Report(columns, both, baselines=baselines))
    page.write(tmp_path / "alone.html", page.Report(columns, both))
    beside, alone = (re.sub("<wbr>", "", (tmp_path / f"{name}.html").read_text()) for name in ("r", "alone"))
    heads = re.search(r"<thead>.*?</thead>", beside)[0]
    assert heads.index(">run<") < heads.index(">bm25<") and "bm25" not in alone
    metrics = len(table.METRICS)
    assert beside.count('<td class="score">–</td>') == 3 * metrics  # the other direction, its modality, the mean of all
    widths = (text[text.index('<section id="widths"') :] for text in (beside, alone))
    assert next(widths) == next(widths)
    assert select_scored(baselines, both) == baselines and select_scored(baselines, both[1:]) == {}


def test_rows_are_modalities_in_order_and_means_have_intervals_over_queries():
    def pairs(name: str, count: int, group: str):
        return from_pairs(name, [Record(str(i), (Text(f"q{i}"),), (Text(f"t{i}"),)) for i in range(count)], group)

    benchmarks = [*pairs("a", 10, "video"), *pairs("b", 40, "mine"), *pairs("c", 20, "text"), *pairs("d", 10, "video")]
    groups = table.by_group(benchmarks)
    assert list(groups) == ["text", "video", "mine"] and len(groups["video"]) == 4
    assert table.effective_queries(groups["video"]) == pytest.approx(20)  # two datasets of 10, both directions
    results = {b.name: {8: {"hit@1": 0.5, "chance@1": 0.1}} for b in benchmarks[:-1]}
    assert table.mean_score("hit@1", results, groups["video"]) is None
    assert table.mean_score("hit@1", results, groups["text"]) == 0.5
    shown = Page(table.results_table({"run": results}, benchmarks)).text
    order = [shown.index(name) for name in ("text", "video", "mine", "mean of all")]
    assert order == sorted(order)
    low, high = (100 * end for end in wilson_interval(0.5, 20))
    assert f"50.0{low:.0f}–{high:.0f}" in shown


@pytest.mark.parametrize(
    ("origin", "brief"),
    [
        ("the seed", "from the seed"),
        ("1 × finetune/300 + 1 × finetune__more_media/300", "finetune/300 + more_media/300"),
        ("2 × finetune/300 + 1 × finetune__more_media/300", "2 × finetune/300 + 1 × more_media/300"),
        ("1 × finetune/300", "finetune/300 alone"),
        ("", ""),
    ],
)
def test_soups_are_told_apart_by_what_they_are_made_of(origin, brief):
    assert table.shorten_origin(origin) == brief


def test_the_clearest_success_opens_the_page():
    records = [Record(str(i), (Text(f"q{i}"),), (Text(f"t{i}"),)) for i in range(12)]
    forward, _ = from_pairs("x", records)
    rng = np.random.default_rng(3)
    queries = rng.normal(size=(12, 8)).astype(np.float32)
    corpus = queries + rng.normal(0, 0.8, (12, 8)).astype(np.float32)
    (example,) = examples.select_best(forward, queries, corpus)
    cosines = np.sort(truncate_dim(queries, 8) @ truncate_dim(corpus, 8).T, axis=1)
    i = forward.queries.index(example.query)
    is_right = (truncate_dim(queries, 8) @ truncate_dim(corpus, 8).T).argmax(axis=1) == np.arange(12)
    margins = np.where(is_right, cosines[:, -1] - cosines[:, -2], -1)
    assert margins.argmax() == i and example.results[0].relevant and len(example.results) == 3
    (wrong,) = examples.select_best(forward, queries, np.roll(queries, 1, axis=0))
    assert not wrong.results[0].relevant
