import numpy as np
import pytest
from scipy import stats

from embed.eval import compare
from embed.eval.compare import ALL, Comparison


def runs(values: np.ndarray) -> list[dict]:
    """values [seed, benchmark] as results; a narrower width scores half."""
    return [
        {f"b{i}": {"8": {"ndcg@10": value / 2}, "16": {"ndcg@10": value}} for i, value in enumerate(row)}
        for row in values
    ]


def comparison(seeds: int, width: int | None = None) -> tuple[Comparison, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seeds)
    base = rng.random((seeds, 3))
    fork = (
        base + np.array([0.2, 0, -0.1]) + rng.normal(0, 0.01, (seeds, 3))
    )  # what a seed does is shared, and falls out
    columns = {"base": runs(base), "<fork>": runs(fork)}
    return Comparison("A <title>", "A claim.", columns, ("b0", "b1", "b2"), width=width), base, fork


def test_differences_are_paired_by_seed_with_students_intervals():
    found, base, fork = comparison(4)
    table = compare.cells(found)
    for i in range(3):
        cell = table[f"b{i}"]["<fork>"]
        paired = stats.ttest_rel(100 * fork[:, i], 100 * base[:, i])
        low, high = paired.confidence_interval(0.95)
        assert cell.difference - cell.margin == pytest.approx(low) and cell.difference + cell.margin == pytest.approx(
            high
        )
        assert cell.clear == bool(paired.pvalue < 0.05)
        assert cell.deviation == pytest.approx(100 * fork[:, i].std(ddof=1))
    whole = table[ALL]["<fork>"]
    assert whole.mean == pytest.approx(100 * fork.mean()) and whole.difference == pytest.approx(
        100 * (fork - base).mean()
    )
    assert table[ALL]["base"].difference == 0 and not table[ALL]["base"].clear


def test_widths_and_one_seed():
    found, base, _ = comparison(1, width=8)
    cell = compare.cells(found)["b1"]["base"]
    assert cell.mean == pytest.approx(50 * base[0, 1]) and np.isnan(cell.deviation) and np.isnan(cell.margin)
    assert not cell.clear and "nan" not in compare.markdown(found) + compare.section(found)


def test_table_and_figure_say_the_same_and_escape_names():
    found, _, _ = comparison(3)
    text, page = compare.markdown(found), compare.section(found)
    cell = compare.cells(found)["b0"]["<fork>"]
    assert (
        f"**{cell.difference:+.1f} ± {cell.margin:.1f}**" in text
        and f"{cell.difference:+.1f} ± {cell.margin:.1f}" in page
    )
    assert text.count("\n| b") == 3 and "| mean |" in text and "3 seeds" in text
    assert "<fork>" not in page and "&lt;fork&gt;" in page and page.count("<circle") == 4


def test_columns_need_the_same_seeds():
    found, _, _ = comparison(3)
    with pytest.raises(ValueError, match="every column needs the same seeds"):
        compare.cells(Comparison("t", "c", {"a": found.columns["base"], "b": found.columns["base"][:2]}, ("b0",)))
