"""The paper's claims (i2r/paper/*.yaml), each with a verdict from the results: supported, not supported, no difference
larger than a margin, undecided, not comparable, or not run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from i2r.config.paper_targets import paper_files
from i2r.metrics.statistics import Comparison, Samples, compare, seed_interval, verdicts
from i2r.paper.audit import value
from i2r.paper.published import BY_FOLD
from i2r.report.forms import ratios, table4
from i2r.report.forms.shown import not_of_table, source_of
from i2r.report.target import OVER_IMAGES, OVER_SEEDS, Target
from i2r.report.text import folds_said

CLAIMS = [
    "target",
    "claim",
    "where",
    "shot",
    "ours",
    "than",
    "unit",
    "difference",
    *OVER_IMAGES,
    *OVER_SEEDS,
]
CLAIMS += ["seeds", "paper", "verdict", "verdict of the claim", "why"]
UNITS = {
    None: "points of mIoU",
    "printed": "points of mIoU",
    "class": "points of IoU",
    "fb_iou": "points of FB-IoU",
}
UNITS |= {"prior": "nats a pixel", "ratio": "% of cells", "seconds": "seconds an episode", "none": ""}
UNITS |= {"cam": "points of IoU", "ap": "points of average precision"}
NOT_TRAINED = ("prior", "cam", "ap")  # of frozen networks: their seeds are evaluation seeds


@dataclass
class Pair:
    """Two things that a claim compares.

    Attributes:
        difference: samples over images; None for what is not measured by images.
        by_seed: the difference for each training seed (of priors: evaluation seed); positive if the claim is right.
        margin: up to which a difference counts as none.
        paper: the paper's difference; None if it prints none.
        why: the reason if it is not run or not comparable.
    """

    ours: str
    than: str
    difference: Samples | None = None
    by_seed: Sequence[float] = ()
    margin: float = float("nan")
    paper: float | None = None
    why: str = ""

    @property
    def comparison(self) -> Comparison:
        return compare(self.difference, self.by_seed, self.margin)


def table(targets: Sequence[Target]) -> pd.DataFrame:
    """One row for each comparison of each claim of these targets, with CLAIMS."""
    claims = [(target, claim, _pairs(target, claim)) for target in targets for claim in claims_of(target)]
    pairs = [pair for *_, own in claims for pair in own]
    compared = [pair.comparison for pair in pairs]
    expected = [pair.margin if pair.paper is None else pair.paper for pair in pairs]
    said = iter(verdicts(compared, expected, [pair.margin for pair in pairs]))
    rows = []
    for target, claim, own in claims:
        mine = [_worded(pair, next(said), claim.get("kind")) for pair in own]
        start = {
            "target": target.name,
            "claim": claim["says"],
            "where": claim.get("where", "not in the paper"),
        }
        start |= {"shot": claim.get("shot", 1), "unit": UNITS[claim.get("kind")]}
        for pair, verdict in zip(own, mine, strict=True):
            drawn = (np.nan, np.nan) if pair.difference is None else pair.difference.interval()
            ends = (*drawn, *seed_interval(list(pair.by_seed)))
            row = start | {"ours": pair.ours, "than": pair.than, "difference": pair.comparison.difference}
            row |= dict(zip((*OVER_IMAGES, *OVER_SEEDS), ends, strict=True))
            row |= {"seeds": len(pair.by_seed), "paper": pair.paper}
            rows.append(row | {"verdict": verdict, "verdict of the claim": overall(mine), "why": pair.why})
    return pd.DataFrame(rows, columns=CLAIMS)


def claims_of(target: Target) -> list[dict[str, Any]]:
    """The claims of a target's table; of a target with a name of its own only those whose methods it has. A form that
    the paper does not have has none."""
    if target.name in paper_files():
        return paper_files()[target.name].get("claims", [])
    name = target.form
    if name == "table1" and target.trained:
        name = BY_FOLD.get(source_of(target, target.trained[0]), name)
    found = paper_files().get(name, {}).get("claims", [])
    return [
        claim
        for claim in found
        if not any(
            _absent(target, given, claim.get("kind"), claim.get("shot", 1))
            for given in claim.get("pairs", ())
        )
    ]


def _worded(pair: Pair, verdict: str, kind: str | None) -> str:
    """A verdict in the words of this page."""
    if pair.why:
        return pair.why
    if kind in NOT_TRAINED:
        verdict = verdict.replace("training seed", "evaluation seed")
    if kind == "seconds":
        verdict = verdict.replace("training seed", "timed evaluation")
    return "not supported" if verdict == "opposite" else verdict


def overall(said: Sequence[str]) -> str:
    """The verdict of a claim from those of its comparisons: it is supported if all are."""
    if len(set(said)) == 1:
        return said[0]
    for start in ("not supported", "not comparable", "not run", "undecided", "no ", "one ", "two "):
        if own := [text for text in said if text.startswith(start)]:
            return f"{own[0]} ({len(own)} of {len(said)})"
    return said[0]


# --- what a claim compares ---------------------------------------------------------------------------------------


def _pairs(target: Target, claim: Mapping[str, Any]) -> list[Pair]:
    """The comparisons of a claim, with the reason for each that cannot be made."""
    kind, shot = claim.get("kind"), claim.get("shot", 1)
    if kind == "none":
        return [Pair("", "", why=f"not run: {claim['why']}")]
    found = []
    for given in claim["pairs"]:
        paper = float(value(given["by"])) if "by" in given else None
        why = _absent(target, given, kind, shot)
        if why:
            found.append(Pair(given["ours"], given["than"], paper=paper, why=f"not run: {why}"))
            continue
        pairs = KINDS[kind](target, given, shot)
        for pair in pairs:
            pair.paper = paper
            pair.why = pair.why or ("" if len(pair.by_seed) else "not run")
        found += pairs
    return found


def _absent(target: Target, given: Mapping[str, Any], kind: str | None, shot: int) -> str:
    """Why a comparison has no numbers: a method is not in the target or not possible, or the shots were not run."""
    if shot not in target.shots:
        return f"{shot} shots are not among those of {target.name}"
    if kind == "prior":
        return "" if target.host else f"{target.name} has no baselines"
    names = [given["ours"]] + ([given["than"]] if kind not in ("class", "printed") else [])
    for name in names:
        if name in target.impossible:
            return f"{name} is not possible: {target.impossible[name]}"
        if name not in target.trained:
            return f"{target.name} has no method {name}"
    return ""


def _scores(measure: str) -> Callable[[Target, Mapping[str, Any], int], list[Pair]]:
    """mIoU or FB-IoU of two methods."""

    def pairs(target: Target, given: Mapping[str, Any], shot: int) -> list[Pair]:
        ours, than = given["ours"], given["than"]
        margin = target.results.params["report"]["equivalence"]
        a, b = (target.mean_samples(id, shot, measure) for id in (ours, than))
        if a is None or b is None or not target.same_episodes(ours, than, shot):
            return [Pair(ours, than, margin=margin)]
        return [Pair(ours, than, a - b, target.seed_differences(ours, than, shot, measure), margin)]

    return pairs


def _printed(target: Target, given: Mapping[str, Any], shot: int) -> list[Pair]:
    """Our mIoU less a number that the paper prints."""
    ours, number = given["ours"], float(value(given["number"]))
    pair = Pair(ours, f"{given['than']} as printed", margin=target.results.params["report"]["equivalence"])
    drawn = target.mean_samples(ours, shot)
    table = target.name if target.name in paper_files() else target.form
    differs = not_of_table(target, ours, shot, table)
    if len(target.folds) < 4:
        differs.append(f"{folds_said(target.folds)}, not the mean of folds 0 to 3")
    if drawn is None:
        return [pair]
    if differs:
        pair.why = f"not comparable: {'; '.join(differs)}"
        return [pair]
    pair.difference = Samples(drawn.values - number, drawn.images)
    pair.by_seed = [score - number for score in target.by_seed(ours, shot).values()]
    return [pair]


def _prior(target: Target, given: Mapping[str, Any], shot: int) -> list[Pair]:
    """Cross-entropies of two priors in each fold; priors are not trained, so the seeds are evaluation seeds."""
    found, priors = [], target.results.priors
    share = target.results.params["report"]["reproduced_share"]
    for fold in target.folds:
        own = priors[(priors["on"] == target.host) & (priors["shot"] == shot) & (priors["fold"] == fold)]
        own = own[own["eval_seed"].isin(target.baseline_seeds)]
        cells = own.groupby(["prior", "eval_seed"])["bce"].mean().unstack("prior")
        pair = Pair(f"{given['ours']}, fold {fold}", given["than"])
        found.append(pair)
        if not {given["ours"], given["than"]} <= set(cells.columns):
            continue
        both = cells[[given["than"], given["ours"]]].dropna()
        pair.by_seed = list(both[given["than"]] - both[given["ours"]])
        pair.margin = share * float(both[given["than"]].mean())
        ids = [table4.baseline(target, given[end]) for end in ("than", "ours")]
        drawn = [target.samples(id, shot, fold, "bce") for id in ids]
        pair.difference = None if None in drawn else drawn[0] - drawn[1]
    return found


def _frozen(measure: str) -> Callable[[Target, Mapping[str, Any], int], list[Pair]]:
    """A measure of prior or CAM+ in percent, on the data of two methods; higher is better."""

    def pairs(target: Target, given: Mapping[str, Any], shot: int) -> list[Pair]:
        ids = given["ours"], given["than"]
        first, second = (target.by_seed(id, shot, "eval_seed", measure) for id in ids)
        pair = Pair(*ids, margin=target.results.params["report"]["equivalence"])
        pair.by_seed = [first[seed] - second[seed] for seed in first if seed in second]
        if pair.by_seed and measure == "ap":  # of CAM+, episodes.csv has no measure
            drawn = target.mean_samples(ids[0], shot, measure) - target.mean_samples(ids[1], shot, measure)
            pair.difference = Samples(100 * drawn.values, drawn.images)
        return [pair]

    return pairs


def _ratio(target: Target, given: Mapping[str, Any], shot: int) -> list[Pair]:
    """Masked cells of two methods, means of blocks and folds."""

    def by_seed(id: str) -> dict[int, float]:
        parts = [
            ratios.by_seed(target, id, shot, fold, block)
            for fold in target.folds
            for block in range(ratios.blocks(target, id))
        ]
        seeds = set.intersection(*map(set, parts)) if parts else set()
        return {seed: float(np.mean([part[seed] for part in parts])) for seed in sorted(seeds)}

    ours, than = by_seed(given["ours"]), by_seed(given["than"])
    margin = target.results.params["report"]["reproduced_share"] * float(
        np.mean(list(than.values()) or [np.nan])
    )
    return [Pair(given["ours"], given["than"], None, [than[s] - ours[s] for s in ours if s in than], margin)]


def _class(target: Target, given: Mapping[str, Any], shot: int) -> list[Pair]:
    """How far the IoU of a class is below the mean of the other classes of its fold."""
    pair = Pair(f"other classes of the fold, {given['ours']}", given["than"])
    pair.margin = target.results.params["report"]["equivalence"]
    table = target.results.per_class
    own = table[(table["id"] == given["ours"]) & (table["shot"] == shot) & table["fold"].isin(target.folds)]
    mine = own[own["name"].str.replace("[ _]", "", regex=True) == given["than"]].dropna(subset=["iou"])
    if mine.empty:
        pair.why = f"not run: no scored class is called {given['than']}"
        return [pair]
    others = own[(own["fold"] == mine["fold"].iloc[0]) & (own["class"] != mine["class"].iloc[0])]
    by_seed = others.groupby("seed")["iou"].mean() - mine.groupby("seed")["iou"].mean()
    pair.by_seed = list(by_seed.dropna())
    return [pair]


def _seconds(target: Target, given: Mapping[str, Any], shot: int) -> list[Pair]:
    """Seconds an episode of two methods, positive if ours is slower."""
    ours, than = (target.by_seed(given[end], shot, value="seconds_per_episode") for end in ("ours", "than"))
    margin = target.results.params["report"]["reproduced_share"] * float(
        np.mean(list(than.values()) or [np.nan])
    )
    return [Pair(given["ours"], given["than"], None, [ours[s] - than[s] for s in ours if s in than], margin)]


KINDS: dict[str | None, Callable[[Target, Mapping[str, Any], int], list[Pair]]] = {
    None: _scores("miou"),
    "fb_iou": _scores("fb_iou"),
    "printed": _printed,
    "prior": _prior,
    "cam": _frozen("iou_cam"),
    "ap": _frozen("ap"),
    "ratio": _ratio,
    "class": _class,
    "seconds": _seconds,
}
