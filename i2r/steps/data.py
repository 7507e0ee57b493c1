"""The data step: generate the data set, or check the one in data.root, and index it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from i2r.data.counts import differences
from i2r.data.describe import SAMPLES, sample_pictures
from i2r.data.index_table import INDEX, write_index
from i2r.data.sources import DataError, open_source
from i2r.pipeline.jobs import Job


def run(job: Job) -> dict[str, Any]:
    """Write index.parquet, samples.png, and VOC/ and objects.csv if the images are generated.

    Raises:
        DataError: a file is missing or wrong, or the data set does not have the digest data.digest.
    """
    data = job.params["data"]
    index = open_source(data["source"]).index(
        data,
        job.out,
        job.data_root,
        faulty=data.get("faulty", "stop"),
        workers=max(job.threads, job.runtime.workers),
        saved=job.state / "checked.jsonl",
    )
    for why in index.get("left_out", {}).values():
        print(f"left out: {why}", flush=True)
    print(f"digest {index['digest']}")
    if data.get("digest") not in (None, index["digest"]):
        raise DataError(
            f"data.digest: {job.data_root} has lists, images and masks with the digest {index['digest']}, "
            f"but the params have {data['digest']}, or the data had when this job was planned"
        )
    counts = {
        split: Counter(cls for pixels in index[split].values() for cls in pixels)
        for split in ("train", "val")
    }
    for cls, name in enumerate(index["classes"], start=1):
        print(f"{name}: {counts['train'][str(cls)]} training, {counts['val'][str(cls)]} validation images")
    if differs := differences(index, data["source"]):
        text = f"{job.data_root}: as long as the published lists, but their folds are not as published: "
        text += "; ".join(differs)
        if data.get("counts", "assert") == "assert":
            raise DataError(f"{text}. Set `data.counts: print` to continue")
        print(text, flush=True)
    index = {"source": data["source"], **index}
    write_index(job.out / INDEX, index)
    sample_pictures(index, job.data_root or job.out / "VOC", job.out / SAMPLES)
    left_out = {"left_out": list(index["left_out"])} if "left_out" in index else {}
    counted = {f"{split}_images": len(index[split]) for split in ("train", "val")}
    return counted | {"digest": index["digest"]} | left_out
