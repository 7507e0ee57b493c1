"""The paper's tables 3 (what each component brings) and 4 (quality of the priors) with our numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from i2r.report.results import Finished, section
from i2r.report.tables import (
    Samples,
    difference,
    fold_table,
    label,
    markdown,
    mean_folds,
    number,
    paper,
    paper_note,
    with_interval,
)

PRIORS = {
    "bam": "BAM's (baseline)",
    "pmgm": "PMGM (I²R)",
    "ordered": "PMGM ordered (ours)",
    "mean": "one prototype",
}


# --- Table 3 ---------------------------------------------------------------------------------------------


def components(options: dict[str, Any]) -> dict[str, Any]:
    """Which of Table 3's components a method's options switch on."""
    return {
        "pmgm": options["prior"] if options["prior"] not in ("bam", "mean") else "",
        "support": bool(options["support_branch"]),
        "mask": options["mask"],
        "mask_test": options["mask_test"],
    }


def table3_number(parts: dict[str, Any]) -> float | None:
    """The paper's mIoU of the row of Table 3 with these components; None where it has no such row."""
    for row in paper()["table3"]:
        pmgm = "pmgm" if row["pmgm"] else ""
        if (pmgm, row["support"], row["mask"], row["mask_test"]) == tuple(parts.values()):
            return row["miou"]
    return None


def ablation_table(
    jobs: Sequence[Finished],
    evaluations: pd.DataFrame,
    samples: Samples,
    params: dict[str, Any],
    shot: int,
    comparable: bool,
) -> pd.DataFrame:
    """Form of the paper's Table 3, on the folds of the ablation; `difference` is to the first I2R method.

    Columns: method, pmgm, support, mask, mask_test, fold-F ..., mean, mean low, mean high, difference,
    difference low, difference high, paper (where comparable), published (the paper's number whatever the setting).
    """
    known = {job.key: job for job in jobs}
    options = {job.args["method"]: section(job, "method", known) for job in jobs if job.step == "evaluate"}
    asked = [*params["run"]["methods"], *params["ablate"]["methods"]]
    methods = [m for m in dict.fromkeys(asked) if options.get(m, {}).get("network") == "i2r"]
    folds = params["ablate"]["folds"]
    cells = fold_table(evaluations, samples, shot, folds)
    over = mean_folds(evaluations, shot, folds)
    rows = []
    for method in methods:
        parts = components(options[method])
        row = {"method": method} | parts | {f"fold-{f}": cells[f].get(method, np.nan) for f in folds}
        row |= {name: cells[name].get(method, np.nan) for name in ("mean", "mean low", "mean high")}
        low, high = (
            difference(samples, method, methods[0], shot, over) if method != methods[0] else (None, None)
        )
        row["difference"] = (
            row["mean"] - cells["mean"].get(methods[0], np.nan) if method != methods[0] else None
        )
        published = table3_number(parts)
        row |= {"difference low": low, "difference high": high, "published": published}
        rows.append(row | {"paper": published if comparable else None})
    words = ["method", "pmgm", "support", "mask", "mask_test"]
    numbers = [f"fold-{f}" for f in folds] + ["mean", "mean low", "mean high"]
    numbers += ["difference", "difference low", "difference high", "paper", "published"]
    table = pd.DataFrame(rows, columns=words + numbers)
    table[numbers] = table[numbers].astype(float)
    # the paper's order: its rows climb to the full method; what it has not comes last
    order = table["published"].fillna(np.inf)
    return table.iloc[np.argsort(order.to_numpy(), kind="stable")].reset_index(drop=True)


def tick(on: bool, word: str = "") -> str:
    return (f"✓ ({word})" if word else "✓") if on else ""


def ablation_markdown(table: pd.DataFrame, folds: Sequence[int], shot: int, notes: list[str]) -> str:
    """Table 3 as Markdown."""
    header = ["Method", "PMGM", "supp branch", "CyCTR", "DICM, col -inf", "DICM, none -inf", "other mask"]
    left = len(header)
    header += [*(f"Fold-{f}" for f in folds), "Mean [95 %]", "to full [95 %]", "paper"]
    rows = []
    for _, row in table.iterrows():
        mask, test = row["mask"], row["mask_test"]
        other = mask if mask not in ("none", "dicm", "cyctr") else ""
        rows.append(
            [
                label(row["method"]),
                tick(bool(row["pmgm"]), "" if row["pmgm"] == "pmgm" else row["pmgm"]),
                tick(row["support"]),
                tick(mask == "cyctr"),
                tick(mask == "dicm" and test == "cyctr"),
                tick(mask == "dicm" and test == "none"),
                other,
                *(number(row[f"fold-{f}"]) for f in folds),
                with_interval(row, "mean"),
                with_interval(row, "difference"),
                number(row["paper"], 2),
            ]
        )
    named = ", ".join(map(str, folds))
    return (
        f"# What each component brings (form of the paper's Table 3, {shot}-shot, folds {named})\n\n"
        + markdown(header, rows, left)
        + "\nmIoU in percent. `to full`: difference to the complete method, with the interval of paired bootstrap "
        "samples of the same episodes; single folds move by several points from one training seed to another.\n\n"
        + paper_note(notes)
    )


# --- Table 4 ---------------------------------------------------------------------------------------------

MEASURES = {
    "bce": ("Cross-entropy between prior and mask (the paper's measure; lower is better)", 4),
    "ap": ("Average precision of the prior in percent (higher is better; calibration can't buy it)", 1),
    "iou_best": ("IoU in percent at the best threshold, chosen on the test episodes themselves", 1),
}


def prior_table(priors: pd.DataFrame, shot: int, folds: Sequence[int], comparable: bool) -> pd.DataFrame:
    """Form of the paper's Table 4: measure, prior, fold-F ..., mean, deviation (of the mean, over evaluation
    seeds), paper (its mean, where comparable)."""
    rows, own = [], priors[priors["shot"] == shot]
    for measure in MEASURES:
        cells = own.groupby(["prior", "fold"])[measure].mean().unstack("fold").reindex(columns=list(folds))
        over = [f for f in folds if cells[f].notna().any()]
        for prior in [*PRIORS, *sorted(set(cells.index) - set(PRIORS))]:
            if prior not in cells.index:
                continue
            means = own[own["prior"] == prior].groupby("eval_seed")[measure].mean()
            published = paper()["table4"].get(prior, {}).get("mean", [None])[-1] if measure == "bce" else None
            values = {f"fold-{f}": cells.at[prior, f] for f in folds}
            mean = cells.loc[prior, over].mean(skipna=False) if over else np.nan
            deviation = means.std(ddof=1) if len(means) > 1 else np.nan
            rows.append(
                {"measure": measure, "prior": prior}
                | values
                | {"mean": mean, "deviation": deviation, "paper": published if comparable else None}
            )
    columns = ["measure", "prior", *(f"fold-{f}" for f in folds), "mean", "deviation", "paper"]
    return pd.DataFrame(rows, columns=columns).astype({"paper": float})


def prior_markdown(table: pd.DataFrame, folds: Sequence[int], shot: int, notes: list[str]) -> str:
    """Table 4 as Markdown, a table for each measure."""
    parts = [f"# Quality of the priors (form of the paper's Table 4, {shot}-shot)\n"]
    for measure, (title, digits) in MEASURES.items():
        own = table[table["measure"] == measure]
        header = ["Prior", *(f"Fold-{f}" for f in folds), "Mean"] + (["paper"] if measure == "bce" else [])
        rows = []
        for _, row in own.iterrows():
            mean = number(row["mean"], digits)
            mean += "" if pd.isna(row["deviation"]) else f" ± {row['deviation']:.{digits}f}"
            cells = [number(row[f"fold-{f}"], digits) for f in folds]
            published = [number(row["paper"], digits)] if measure == "bce" else []
            rows.append([PRIORS.get(row["prior"], row["prior"]), *cells, mean, *published])
        parts.append(f"**{title}**\n\n{markdown(header, rows)}")
    deviation = "± is the deviation over evaluation seeds.\n\n" if table["deviation"].notna().any() else ""
    return "\n".join(parts) + "\n" + deviation + paper_note(notes)


# --- what the prior is made of, and how much DICM masks ----------------------------------------------------


def cam_markdown(jobs: Sequence[Finished]) -> str:
    """CAM+ on the object, and the classes that the classifier reads from the supports, by shot and fold."""
    names, rows, picks = class_names(jobs), [], []
    for job in sorted((j for j in jobs if j.step == "baselines"), key=lambda j: tuple(j.args.values())):
        scores = job.json("scores.json")
        where = [str(job.args[name]) for name in ("shot", "fold", "eval_seed")]
        if "cam" not in scores:
            continue
        rows.append(where + [number(scores["cam"][n]) for n in ("share_cam", "precision_cam", "recall_cam")])
        classes = next(iter(scores["methods"].values()))["classes"]
        for class_id, counts in scores["cam_classes"].items():
            total = sum(counts.values())
            top = sorted(counts.items(), key=lambda item: -item[1])[:3]
            read = ", ".join(f"{names.get(int(c), c)} {100 * n / total:.0f} %" for c, n in top)
            picks.append([*where, str(classes[class_id]["name"]).replace("_", " "), read])
    if not rows:
        return ""
    where = ["Shot", "Fold", "Episodes' seed"]
    return (
        "\n## CAM+ against the object\n\n"
        + markdown([*where, "share of query, %", "precision, %", "recall of object, %"], rows)
        + "\nHow much of the query CAM+ marks, how much of that is object, how much of the object it finds: the prior "
        "can only be as good.\n\n## Classes that the classifier reads from the masked supports\n\n"
        + markdown([*where, "Class of the episodes", "read as"], picks, left=5)
    )


def class_names(jobs: Sequence[Finished]) -> dict[int, str]:
    """Names of the backbone's own classes: the data set's (`small`, pretrained on them) or ImageNet's."""
    known = {job.key: job for job in jobs}
    backbone = next((b for job in jobs if (b := section(job, "backbone", known))), {})
    if backbone.get("name") == "small":
        data = next((job for job in jobs if job.step == "data"), None)
        return dict(enumerate(data.json("index.json")["classes"])) if data else {}
    from i2r.nets.backbone.torchvision_ops import (
        torchvision,  # only here: it brings torch, which takes seconds
    )

    return dict(enumerate(torchvision.models.ResNet50_Weights.IMAGENET1K_V2.meta["categories"]))


def mask_ratios(jobs: Sequence[Finished]) -> str:
    """Form of the paper's Table 5: cells that the mask would take at test, by block of cross-attention, in percent."""
    found = [(job, job.json("scores.json").get("mask_ratio")) for job in jobs if job.step == "evaluate"]
    found = [(job, ratios) for job, ratios in found if ratios]
    if not found:
        return ""
    found.sort(key=lambda pair: tuple(str(pair[0].args[name]) for name in ("method", "shot", "fold", "seed")))
    blocks = max(len(ratios) for _, ratios in found)
    rows = [
        [
            label(job.args["method"]),
            *(str(job.args[name]) for name in ("shot", "fold", "seed")),
            *(f"{100 * ratio:.4f}" for ratio in ratios),
            *["-"] * (blocks - len(ratios)),
        ]
        for job, ratios in found
    ]
    header = ["Method", "Shot", "Fold", "Seed", *(f"CAB {i}" for i in range(blocks))]
    return (
        "\n## Mask ratio (form of the paper's Table 5)\n\n"
        + markdown(header, rows)
        + "\nPercent of the cells of each cross-attention that the method's mask would take, measured at test with the "
        "true query mask and not applied.\n"
    )
