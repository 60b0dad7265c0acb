import dataclasses

import numpy as np
import pytest
from scipy import stats

from embed.eval import compare
from embed.eval.compare import Comparison
from embed.report.comparison import sections

ROWS = {
    "b0": [("b0", 16, "ndcg@10")],
    "b1": [("b1", 16, "ndcg@10")],
    "b2": [("b2", 16, "ndcg@10")],
    "narrow": [(f"b{i}", 8, "ndcg@10") for i in range(3)],
    "mean": [(f"b{i}", 16, "ndcg@10") for i in range(3)],
}


def runs(values: np.ndarray) -> list[dict]:
    """values [seed, benchmark] as results; a narrower width scores half."""
    return [
        {f"b{i}": {8: {"ndcg@10": value / 2}, 16: {"ndcg@10": value}} for i, value in enumerate(row)} for row in values
    ]


def comparison(seeds: int) -> tuple[Comparison, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seeds)
    base = rng.random((seeds, 3))
    # what a seed does is shared, and falls out
    fork = base + np.array([0.2, 0, -0.1]) + rng.normal(0, 0.01, (seeds, 3))
    columns = {"base": runs(base), "base__<fork>": runs(fork)}
    return Comparison("A <title>", "A claim.", columns, ROWS), base, fork


def test_differences_are_paired_by_seed_with_students_intervals():
    found, base, fork = comparison(4)
    table = compare.compute_cells(found)
    for i in range(3):
        cell = table[f"b{i}"]["base__<fork>"]
        paired = stats.ttest_rel(100 * fork[:, i], 100 * base[:, i])
        low, high = paired.confidence_interval(0.95)
        assert cell.difference - cell.margin == pytest.approx(low)
        assert cell.difference + cell.margin == pytest.approx(high)
        assert cell.significant == bool(paired.pvalue < 0.05)
        assert cell.deviation == pytest.approx(100 * fork[:, i].std(ddof=1))
    assert table["mean"]["base__<fork>"].mean == pytest.approx(100 * fork.mean())
    assert table["mean"]["base__<fork>"].difference == pytest.approx(100 * (fork - base).mean())
    assert table["narrow"]["base__<fork>"].mean == pytest.approx(50 * fork.mean())
    assert table["mean"]["base"].difference == 0 and not table["mean"]["base"].significant


def test_a_spread_is_over_the_rows_it_names_run_by_run_and_stands_before_the_last():
    found, base, fork = comparison(4)
    found = dataclasses.replace(found, spreads={"spread": ["b0", "b2"]})
    table = compare.compute_cells(found)
    assert list(table) == ["b0", "b1", "b2", "narrow", "spread", "mean"]
    own, other = (100 * values[:, [0, 2]].std(axis=1, ddof=1) for values in (base, fork))
    assert table["spread"]["base"].mean == pytest.approx(own.mean())
    assert table["spread"]["base__<fork>"].difference == pytest.approx((other - own).mean())
    assert table["spread"]["base__<fork>"].deviation == pytest.approx(other.std(ddof=1))
    assert "| spread |" in compare.format_markdown(found) and ">spread<" in sections([found])


def test_one_seed_has_no_interval():
    found, base, _ = comparison(1)
    cell = compare.compute_cells(found)["b1"]["base"]
    assert cell.mean == pytest.approx(100 * base[0, 1]) and np.isnan(cell.deviation) and np.isnan(cell.margin)
    assert not cell.significant
    assert "nan" not in compare.format_markdown(found) + compare.format_overview([found]) + sections([found])


def test_table_figure_and_overview_say_the_same_and_escape_names():
    found, _, _ = comparison(3)
    text, page, glance = compare.format_markdown(found), sections([found]), compare.format_overview([found])
    table = compare.compute_cells(found)
    own, mean = table["b0"]["base__<fork>"], table["mean"]["base__<fork>"]
    assert f"**{own.difference:+.1f} ± {own.margin:.1f}**" in text
    assert f"{own.difference:+.1f} ± {own.margin:.1f}" in page
    assert text.count("\n| b") == 3 and "| mean |" in text and "3 seeds" in text
    heads, _, parent, fork = (line.strip("| ").split(" | ") for line in glance.splitlines())
    assert heads == ["nDCG@10, seeds: 3", *ROWS] and parent[0] == "base" and fork[0] == "base__<fork> − base"
    assert parent[-1] == f"{table['mean']['base'].mean:.1f} ± {table['mean']['base'].deviation:.1f}"
    assert f"{mean.difference:+.1f} ± {mean.margin:.1f}" in fork[-1] and fork[-1].startswith("**") == mean.significant
    assert f"**{own.difference:+.1f} ± {own.margin:.1f}**" == fork[1]
    assert "<fork>" not in page and "&lt;fork&gt;" in page and page.count("<circle") == 1 + len(ROWS)


def test_references_stand_beside_at_their_own_width_and_leave_the_rest_as_it_is():
    """A dash where a reference lacks a benchmark, and where shorter vectors are compared."""
    bare, _, _ = comparison(3)
    references = {
        "bm25": {f"b{i}": {0: {"ndcg@10": 0.1 * i}} for i in range(3)},
        "minilm": {"b1": {384: {"ndcg@10": 0.5}}},
    }
    beside = dataclasses.replace(bare, references=references, spreads={"spread": ["b0", "b2"]})
    rows = [line for line in compare.format_markdown(beside).splitlines() if line.startswith("| ")]
    table = {cells[0]: cells for cells in (line.strip("| ").split(" | ") for line in rows)}
    assert table["nDCG@10"] == ["nDCG@10", "base", "base__<fork>", "bm25", "minilm", "base__<fork> − base"]
    columns = {label: cells[3:5] for label, cells in table.items() if label != "nDCG@10"}
    assert columns == {
        "b0": ["0.0", "–"],
        "b1": ["10.0", "50.0"],
        "b2": ["20.0", "–"],
        "narrow": ["–", "–"],
        "spread": ["–", "–"],
        "mean": ["10.0", "–"],
    }
    without = [cells[:3] + cells[5:] for cells in table.values()]
    alone = compare.format_markdown(dataclasses.replace(beside, references={})).splitlines()
    assert without == [line.strip("| ").split(" | ") for line in alone if line.startswith("| ")]
    html = sections([beside])
    assert html.count("<td>–</td>") == 7 and "<th>minilm</th>" in html and "<td>50.0</td>" in html


def test_other_tables_are_not_in_the_overview():
    found, _, _ = comparison(3)
    other = Comparison("o", "", {"x": found.columns["base"], "y": found.columns["base"]}, {"b0": ROWS["b0"]})
    assert compare.format_overview([found, other]) == compare.format_overview([found])
    assert sections([found, other]).count("<figure") == 3 and sections([found, other]).count(">y<") == 1


def test_nothing_compared_is_no_section():
    assert sections([]) == ""


def test_columns_need_the_same_seeds():
    found, _, _ = comparison(3)
    columns = {"a": found.columns["base"], "b": found.columns["base"][:2]}
    with pytest.raises(ValueError, match="every column needs the same seeds"):
        compare.compute_cells(Comparison("t", "c", columns, ROWS))


def test_checkpoints_are_compared_to_the_first_on_what_they_share():
    def results(*scores: float) -> dict:
        return {f"b{i}": {8: {"ndcg@10": 0.0}, 16: {"ndcg@10": score}} for i, score in enumerate(scores)}

    lines = compare.format_comparison({"a": results(0.5, 0.25), "b": results(0.625, 0.125, 1.0)}).splitlines()
    assert lines[0] == "| nDCG@10 | a | b | b − a |"
    assert lines[2:] == [
        "| b0 | 50.0 | 62.5 | +12.5 |",
        "| b1 | 25.0 | 12.5 | -12.5 |",
        "| b2 | – | 100.0 | – |",
        "| mean | 37.5 | 37.5 | +0.0 |",
    ]
    assert compare.format_comparison({"a": results(0.5)}).splitlines()[2:] == ["| b0 | 50.0 |", "| mean | 50.0 |"]
