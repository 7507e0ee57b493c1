"""Fold lists as a folder that people read, and a comparison with lists of others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from i2r.config.data_set import SOURCES
from i2r.data.list_files import read_list
from i2r.data.lists import BY_LIST, fold_lists
from i2r.data.sources import DataError, open_source
from i2r.files import read_json, write_json, write_text

# Rule -> arguments of lists.fold_lists. HSNet: every image with the class, whatever its area and what else it shows.
RULES: dict[str, dict[str, Any]] = {
    "bam": {"novel": "drop", "min_area": 2048, "draw": "present"},
    "hsnet": {"novel": "keep", "min_area": 1, "draw": "present"},
}
_FILES = {"train": "train", "test": "val"}


def write_lists(
    index: dict[str, Any], out: Path, rule: str, lost: Callable[[dict], dict] | None = None, **other: Any
) -> list[dict[str, Any]]:
    """Write the lists of all folds of an index: fold0/train.txt ... (`image mask` a line), train_classes.json (class id
    -> image ids in list order), val_classes.json, and lists.json with everything that episodes are drawn from.

    Args:
        rule: bam or hsnet.
        lost: finds what lists.json names as `vanished` from the lists of a fold, see vanished.py; None: nothing.
        other: arguments of lists.fold_lists instead of the rule's; None: the rule's.

    Raises:
        DataError: a kind of folds is given for a source whose lists divide the classes.
    """
    source = open_source(index["source"])
    number = SOURCES[index["source"]].folds
    if other.get("folds") and source.folds == BY_LIST:
        raise DataError(f"folds: {other['folds']}, but the lists of {index['source']} divide its classes")
    how = {"folds": source.folds} | RULES[rule] | {name: v for name, v in other.items() if v is not None}
    made = []
    for fold in range(number):
        lists = fold_lists(index, fold, number=number, **how)
        lists |= {"vanished": lost(lists)} if lost else {}
        folder = out / f"fold{fold}"
        for part, name in _FILES.items():
            lines = (" ".join(source.paths(image)) + "\n" for image in lists[part])
            write_text(folder / f"{name}.txt", "".join(lines))
            write_json(folder / f"{name}_classes.json", lists[f"{part}_by_class"])
        write_json(folder / "lists.json", {"source": index["source"], **lists})
        made.append(lists)
    return made


def read_lists(folder: Path, fold: int) -> dict[str, Any]:
    """The lists of a fold that write_lists wrote.

    Raises:
        DataError: they are missing.
    """
    path = folder / f"fold{fold}" / "lists.json"
    if not path.is_file():
        raise DataError(f"{path}: no such file; `i2r data lists` writes it")
    return read_json(path)


def compare_lists(ours: Path, theirs: Path) -> str:
    """What differs between two list files, in sentences."""
    a, b = read_list(ours), read_list(theirs)
    if a == b:
        return f"the same {len(a)} images in the same order"
    found = [f"{len(a)} images in {ours}, {len(b)} in {theirs}"]
    for names, path in ((sorted(set(a) - set(b)), ours), (sorted(set(b) - set(a)), theirs)):
        if names:
            more = " ..." if len(names) > 10 else ""
            found.append(f"{len(names)} only in {path}: {', '.join(names[:10])}{more}")
    common = set(a) & set(b)
    if [name for name in a if name in common] != [name for name in b if name in common]:
        found.append(f"the {len(common)} images of both stand in another order")
    return "\n".join(found)
