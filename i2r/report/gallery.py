"""Figures of the report that do not belong to one target: loss curves and pictures of episodes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from i2r.report import figures, pictures
from i2r.report.forms.shown import Figure
from i2r.report.results import Results, Scored, dataset_of

MEASURED = {  # column of metrics.jsonl: title of the axis, caption
    "disagree": (
        "share (smoothed)",
        "Share of support cells whose preferred query cell has another label, in training",
    ),
    "wrong_mass": (
        "share (smoothed)",
        "Share of the attention on support cells of the other label, in training, with the method's mask",
    ),
    "support_iou": (
        "IoU, % (smoothed)",
        "IoU of the support branch for the supports' own masks, in training",
    ),
}


def curves(results: Results, labels: dict[str, str]) -> list[Figure]:
    """Training loss, validation mIoU and what the cross-attention does, one figure of each for each data set."""
    names = {name: labels[name] for name in results.methods}
    several = results.curves["dataset"].nunique() > 1
    found = []
    for dataset, table in results.curves.groupby("dataset", sort=False):
        suffix, where = (f"-{dataset}", f" on {dataset}") if several else ("", "")
        loss = partial(figures.loss_curves, table, names)
        found.append(Figure(f"curves{suffix}", f"Training loss{where}.", loss))
        if "validation_miou" in table and table["validation_miou"].notna().any():
            caption = f"mIoU{where} of held-out episodes of training classes, during the training."
            miou = partial(figures.validation_curves, table, names)
            found.append(Figure(f"validation{suffix}", caption, miou))
        for column, (title, caption) in MEASURED.items():
            if column in table and (own := table.dropna(subset=[column])).size:
                draw = partial(figures.training_curves, own, column, title, names)
                found.append(Figure(f"{column.replace('_', '-')}{suffix}", f"{caption}{where}.", draw))
    return found


def shown_methods(results: Results) -> list[str]:
    """Methods whose episodes are shown: those of the main targets, or all if there are only ablations."""
    targets = results.params["targets"].values()
    chosen = [t for t in targets if not t.get("ablation") and t["form"] != "table4"] or list(targets)
    return list(dict.fromkeys(name for target in chosen for name in target["methods"]))


def _kept(results: Results) -> Iterator[tuple[tuple, dict[str, Scored]]]:
    """(data set, shot, fold) -> method -> its first evaluation with pictures."""
    found: dict[tuple, dict[str, Scored]] = {}
    chosen = shown_methods(results)
    for item in sorted(results.scored, key=lambda item: chosen.index(item.id) if item.id in chosen else -1):
        file = item.job.folder / "pictures.npz"
        if item.id in chosen and item.scores.get("miou") is not None and file.is_file():
            place = dataset_of(results.methods[item.id]), item.row["shot"], item.row["fold"]
            found.setdefault(place, {}).setdefault(item.id, item)
    yield from sorted(found.items())


def episodes(results: Results, labels: dict[str, str]) -> tuple[list[Figure], dict[str, list[Figure]]]:
    """Figures that compare methods on the same episodes, and figures of each method with CAM and prior."""
    rows = results.params["report"]["pictures"]
    if not rows:
        return [], {}
    groups = list(_kept(results))
    datasets, shots = ({place[at] for place, _ in groups} for at in (0, 1))
    compared: list[Figure] = []
    own: dict[str, list[Figure]] = {}
    for (dataset, shot, fold), kept in groups:
        suffix = (f"-{dataset}" if len(datasets) > 1 else "") + (f"-{shot}shot" if len(shots) > 1 else "")
        where = (f"{dataset}, " if len(datasets) > 1 else "") + (f"{shot}-shot, " if len(shots) > 1 else "")
        where += f"fold {fold}"
        files = {labels[id]: item.job.folder / "pictures.npz" for id, item in kept.items()}
        if len(files) > 1:
            draw = partial(pictures.comparison_figure, files, rows=rows)
            compared.append(Figure(f"compare{suffix}-fold{fold}", where, draw))
        for id in kept:
            draw = partial(pictures.episode_figure, files[labels[id]], rows=rows)
            own.setdefault(id, []).append(Figure(f"episodes-{id}{suffix}-fold{fold}", where, draw))
    return compared, own
