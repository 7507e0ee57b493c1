"""Lengths of the published lists (docs/method.md 9), with which those of a full data set must agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from i2r.config.data_set import SOURCES
from i2r.data.lists import fold_lists
from i2r.files import read_json

FILE = Path(__file__).with_name("published_counts.json")
AREA = 2048
# images of FSS-1000's 520 training classes, and of 240 for validation or test
FSS = {"train": 5200, "val": 2400}
FSS_CLASSES = 1000


def published(source: str) -> dict[str, Any] | None:
    """Lengths of the lists of PASCAL-5i (voc) or COCO-20i (coco); None for other sources."""
    name = {"voc": "pascal", "coco": "coco"}.get(source)
    return read_json(FILE)[name] if name else None


def is_full(index: dict[str, Any], source: str) -> bool:
    """Whether a data set has as many images as the published one."""
    known = published(source)
    if known is None:
        return False
    names = ("master_train", "val") if source == "voc" else ("train_images", "val_images")
    return [len(index["train"]), len(index["val"])] == [known[name] for name in names]


def differences(index: dict[str, Any], source: str, shown: int = 10) -> list[str]:
    """What differs from the published lists, under BAM's rule; empty for a data set of another length.

    FSS-1000 has no rule: with all of its classes, the lists must have the published lengths.
    """
    if source == "fss1000" and len(index["classes"]) == FSS_CLASSES:
        return [
            f"{split}: {len(index[split])} images, published {count}"
            for split, count in FSS.items()
            if len(index[split]) != count
        ]
    if not is_full(index, source):
        return []
    known, found = published(source), []
    folds = "contiguous" if source == "voc" else "interleaved"
    for fold in range(SOURCES[source].folds):
        lists = fold_lists(index, fold, min_area=AREA, folds=folds)
        for part, name in (("train", "train"), ("test", "val")):
            pairs = [("images", len(lists[part]), known[f"{name}_list"][fold])]
            by_class = known[f"{name}_class"].get(str(fold), {})
            pairs += [
                (f"class {cls}", len(lists[f"{part}_by_class"][cls]), count)
                for cls, count in by_class.items()
            ]
            found += [
                f"fold {fold} {name}, {what}: {ours}, published {theirs}"
                for what, ours, theirs in pairs
                if theirs is not None and ours != theirs
            ]
    return found[:shown] + ([f"... and {len(found) - shown} more"] if len(found) > shown else [])
