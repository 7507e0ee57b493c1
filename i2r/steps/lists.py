"""The lists step: which images train and test a fold."""

from __future__ import annotations

from typing import Any

from i2r.config.data_set import SOURCES
from i2r.data.dataset import open_dataset
from i2r.data.index_table import INDEX, read_index
from i2r.data.lists import fold_lists
from i2r.data.sources import DataError, open_source
from i2r.data.vanished import vanished
from i2r.files import write_json
from i2r.pipeline.jobs import Job


def run(job: Job) -> dict[str, Any]:
    """Write lists.json of one fold, with the objects that vanish at the network's side if images are reduced to it.

    Raises:
        DataError: no training image is left.
    """
    rule = job.params["data"]
    size = rule.get("size")  # left out where no image is reduced, see plan.py
    index = read_index(job.inputs["data"] / INDEX, *(("sizes",) if size else ()))
    source = index["source"]
    lists = fold_lists(
        index,
        job.args["fold"],
        novel=rule["novel"],
        min_area=rule["min_area"],
        draw=rule["draw"],
        folds=rule["folds"] or open_source(source).folds,
        number=SOURCES[source].folds,
    )
    if not lists["train"]:
        raise DataError(
            f"fold {lists['fold']}: data.novel {rule['novel']!r} and data.min_area {rule['min_area']} "
            f"leave no training image"
        )
    metrics = {"train_images": len(lists["train"]), "test_images": len(lists["test"])}
    if size:
        dataset = open_dataset(job.inputs["data"], job.data_root)
        lost = vanished(index, dataset.mask, lists, size, workers=max(job.threads, job.runtime.workers))
        lists |= {"vanished": lost}
        metrics["vanished"] = sum(map(len, lost.values()))
    write_json(job.out / "lists.json", lists)
    return metrics
