"""Intervals that cover what they should, verdicts that say no more than the numbers allow."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from i2r.metrics import segmentation, statistics
from i2r.metrics.statistics import Comparison, miou_samples, verdicts

WORLDS = {"equal classes": [45] * 5, "unequal classes": [120, 60, 30, 20, 12]}
MEANS = [0.3, 0.45, 0.5, 0.65, 0.75]  # IoU of the classes
NOISE = 0.08  # of an episode around its image


def world(sizes, seed, episodes=1000):
    """Episodes with images drawn from a population with a known mIoU, each image shown some four times."""
    rng = np.random.default_rng(seed)
    cls = np.repeat(range(len(sizes)), sizes)
    area, iou = (
        rng.lognormal(0, 0.7, len(cls)),
        rng.beta(3 * np.take(MEANS, cls), 3 - 3 * np.take(MEANS, cls)),
    )
    shown = rng.integers(0, len(cls), episodes)
    noise = rng.normal(0, NOISE, episodes)
    union = 1000 * area[shown]
    return pd.DataFrame(
        {"index": range(episodes), "class": cls[shown], "query": [f"{seed}-{p}" for p in shown]}
        | {"inter_fg": union * (iou[shown] + noise), "union_fg": union}
    )


@pytest.mark.parametrize("name", WORLDS)
def test_intervals_over_images_cover_the_truth(name):
    """500 data sets: 95 % of the intervals hold the mIoU of the population, within 2 %, and those of a bootstrap of
    episodes far fewer."""
    truth, sizes, hits, naive = 100 * np.mean(MEANS), WORLDS[name], 0, 0
    for seed in range(500):
        table = world(sizes, seed)
        low, high = miou_samples(table, 400).interval()
        hits += low <= truth <= high
        if seed < 100:
            low, high = miou_samples(table.assign(query=[f"{seed} {n}" for n in table.index]), 400).interval()
            naive += low <= truth <= high
    assert 0.93 <= hits / 500 <= 0.97
    assert naive / 100 < 0.8


@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_over_seeds_cover_the_truth(seeds):
    rng, hits = np.random.default_rng(seeds), 0
    for _ in range(500):
        low, high = statistics.seed_interval(40 + 2 * rng.standard_normal(seeds))
        hits += low <= 40 <= high
    assert 0.93 <= hits / 500 <= 0.97


def table_of(n, rng):
    union = rng.integers(50, 100, n)
    inter = (union * rng.uniform(0.2, 0.8, n)).astype(int)
    columns = {
        "index": range(n),
        "class": rng.integers(1, 4, n),
        "query": [str(q) for q in rng.integers(0, n, n)],
    }
    background = {"inter_bg": 800, "union_bg": 900 + rng.integers(0, 99, n)}
    return pd.DataFrame(columns | {"inter_fg": inter, "union_fg": union} | background)


def test_interval_holds_the_score_and_narrows():
    rng, widths = np.random.default_rng(0), []
    for n in (40, 800):
        table = table_of(n, rng)
        samples = miou_samples(table, 500)
        low, high = samples.interval()
        counts = table[list(segmentation.Counts._fields)].to_numpy()
        scored = segmentation.score([1, 2, 3], table["class"], counts)
        assert low < 100 * scored.miou < high
        low_fb, high_fb = statistics.fb_iou_samples(table, 500).interval()
        assert low_fb < 100 * scored.fb_iou < high_fb
        again = miou_samples(table.sample(frac=1, random_state=1), 500)
        assert (low, high) == again.interval(), "the order of the rows counts for nothing"
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_samples_equal_sums_over_drawn_images():
    """Compared with scoring each row as often as its image was drawn."""
    table = table_of(30, np.random.default_rng(2))
    fast = miou_samples(table, 20).values
    fast_mean = statistics.mean_samples(table.assign(ap=table["inter_fg"]), "ap", 20).values
    for number in range(20):
        times = [statistics._times(query, 20)[number] for query in table["query"]]
        rows = table.loc[np.repeat(table.index, times)]
        sums = rows.groupby("class")[["inter_fg", "union_fg"]].sum()
        assert fast[number] == pytest.approx(100 * (sums["inter_fg"] / sums["union_fg"]).mean())
        assert fast_mean[number] == pytest.approx(rows["inter_fg"].mean())


def test_samples_are_paired():
    """A method that is better by the same factor on every episode is better by it in every sample, also where other
    episodes are beside them."""
    table = table_of(40, np.random.default_rng(3))
    other = table.assign(inter_fg=table["inter_fg"] * 1.1)
    first, second = miou_samples(table, 100), miou_samples(other, 100)
    np.testing.assert_allclose(second.values, 1.1 * first.values)
    assert np.isnan(miou_samples(table[:0], 5).values).all()
    low, high = (second - first).interval()
    assert high - low < 0.2 * np.subtract(*first.interval()[::-1])


def test_evaluation_seeds_do_not_narrow_an_interval_over_images():
    """Drawing the same images more often says little more about other images."""
    sizes = WORLDS["equal classes"]
    one, same = world(sizes, 0), world(sizes, 0)
    same["inter_fg"] += np.random.default_rng(1).normal(0, 10, len(same))
    single = np.subtract(*miou_samples(one, 400).interval()[::-1])
    pair = statistics.averaged([miou_samples(one, 400), miou_samples(same, 400)])
    assert np.subtract(*pair.interval()[::-1]) > 0.9 * single


def test_one_image_has_no_interval():
    table = table_of(3, np.random.default_rng(0)).assign(query="a", **{"class": 1})
    assert np.isnan(miou_samples(table, 50).interval()).all()
    assert np.isnan(statistics.seed_interval([40.0])).all()


@pytest.mark.filterwarnings("error")
def test_a_sample_without_an_image_has_no_number():
    """Of two images, each is drawn 0 times in e^-1 of the samples."""
    table = table_of(4, np.random.default_rng(0)).assign(query=["a", "a", "b", "b"], **{"class": 1})
    for samples in (
        miou_samples(table, 50),
        statistics.fb_iou_samples(table, 50),
        statistics.mean_samples(table, "inter_fg", 50),
    ):
        assert 0 < np.isnan(samples.values).sum() < 50 and np.isnan(samples.interval()).all()


def test_a_difference_without_an_interval_has_no_p_value():
    """So that it does not count among those for which Holm adjusts."""
    table = table_of(3, np.random.default_rng(0)).assign(query="a", **{"class": 1})
    compared = statistics.compare(miou_samples(table, 50), [5.0, 5.3, 4.8], 1.0)
    assert np.isnan([compared.differs, compared.equal, compared.above]).all()
    assert compared.difference == pytest.approx(5.03, abs=0.01)


def test_an_interval_without_zero_has_a_small_p_value():
    samples = miou_samples(table_of(60, np.random.default_rng(5)), 2000)
    low, _ = samples.interval()
    assert samples.p_below(low - 0.1) < 0.025 < samples.p_below(low + 0.1)
    values = [1.0, 1.4, 0.8]
    assert statistics.seeds_p_below(values, 0) == pytest.approx(stats.ttest_1samp(values, 0).pvalue / 2)


def test_holm():
    assert statistics.holm([0.01, 0.04, 0.03, np.nan]) == pytest.approx(
        [0.03, 0.06, 0.06, np.nan], nan_ok=True
    )


def test_seeds_needed():
    """The number has the power that it promises, and one seed less has not."""
    count = statistics.seeds_needed(1.0, 1.2)
    rng = np.random.default_rng(0)

    def seen(seeds):
        draws = 1.0 + 1.2 * rng.standard_normal((4000, seeds))
        return np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05)

    assert seen(count) > 0.78 and seen(count - 3) < 0.8
    assert statistics.seeds_needed(0.001, 10.0) is None


def test_verdicts():
    clear = Comparison(3.0, 0.001, 0.9, np.nan, 3, 0.3)
    unclear = Comparison(0.4, 0.5, 0.4, np.nan, 3, 1.0)
    none = Comparison(0.1, 0.5, 0.001, np.nan, 5, 0.1)
    said = verdicts([clear, clear, unclear, none], [2.0, -1.0, 0.8, 0.5], 1.0)
    assert said[:2] == ["supported", "opposite"] and said[3] == "no difference larger than 1"
    assert said[2] == f"undecided (+0.8 would need about {statistics.seeds_needed(0.8, 1.0)} seeds)"
    assert verdicts([unclear], [0.004], 0.001)[0].startswith("undecided (+0.004 would")  # of seconds
    nothing = [np.nan] * 3
    undefined = Comparison(3.0, *nothing, 3, 0.3)  # a class is missing from some resamples
    assert verdicts([undefined], [1.0], 1.0) == ["undecided (its interval is not defined)"]
    one, missing = Comparison(5.0, *nothing, 1, np.nan), Comparison(np.nan, *nothing, 0, np.nan)
    assert verdicts([one, missing], [1.0, 1.0], 1.0) == ["one training seed: no verdict", "not run"]
    assert verdicts([Comparison(3.0, 0.03, 0.9, np.nan, 3, 0.3)] * 3, [1.0] * 3, 1.0)[0].startswith(
        "undecided"
    )  # Holm


def test_a_verdict_needs_images_and_seeds():
    rng = np.random.default_rng(0)
    table = world(WORLDS["equal classes"], 3)
    better = table.assign(inter_fg=table["inter_fg"] + 0.05 * table["union_fg"])
    gain = miou_samples(better, 400) - miou_samples(table, 400)
    assert statistics.compare(gain, [5.0, 5.3, 4.8], 1.0).differs < 0.05
    assert statistics.compare(gain, [9.0, -3.0, 8.0], 1.0).differs > 0.05
    noise = table.assign(inter_fg=table["inter_fg"] + rng.normal(0, 400, len(table)))
    gain = miou_samples(noise, 400) - miou_samples(table, 400)
    assert statistics.compare(gain, [5.0, 5.3, 4.8], 1.0).differs > 0.05


def test_statistics_need_no_torch():
    code = "import sys, i2r.metrics.statistics; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
