"""An index as a Parquet table, with a row for each image of a list."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from i2r.data.sources import DataError
from i2r.files import replacing

INDEX = "index.parquet"  # of a data job
_SUMMARY = b"i2r"  # metadata: source, names of the classes, digest, images left out, number of images
_SPLITS = ("train", "val")
_SIZES, _FILES = ("height", "width"), ("image_sha256", "mask_sha256")


def write_index(path: Path, index: dict[str, Any]) -> None:
    """Write an index (voc.index_pairs, with the name of its source) as Parquet.

    Columns: image, split, height, width, image_sha256, mask_sha256, and pixels, a map from class id to the pixels of
    each class that the image shows; rows in the order of the lists.
    """
    rows = [(split, name) for split in _SPLITS for name in index[split]]
    sizes, files = ([index[part][name] for _, name in rows] for part in ("sizes", "files"))
    shown = [index[split][name] for split, name in rows]
    ends = [0]
    for pixels in shown:
        ends.append(ends[-1] + len(pixels))
    classes = pa.array([int(cls) for pixels in shown for cls in pixels], pa.int16())
    counts = pa.array([count for pixels in shown for count in pixels.values()], pa.int32())
    columns = {
        "image": [name for _, name in rows],
        "split": [split for split, _ in rows],
        **{name: pa.array([size[at] for size in sizes], pa.int32()) for at, name in enumerate(_SIZES)},
        **{name: [pair[at] for pair in files] for at, name in enumerate(_FILES)},
        "pixels": pa.MapArray.from_arrays(pa.array(ends, pa.int32()), classes, counts),
    }
    summary = {name: index[name] for name in ("source", "classes", "digest", "left_out") if name in index}
    summary["images"] = Counter(split for split, _ in rows)
    table = pa.table(columns).replace_schema_metadata({_SUMMARY: json.dumps(summary).encode()})
    with replacing(path) as temporary:
        parquet.write_table(table, temporary, compression="zstd")


def read_summary(path: Path) -> dict[str, Any]:
    """What an index says of the whole data set: source, classes (names from class 1), digest, images ({"train", "val"}:
    numbers) and, if there are any, left_out ({id: what is wrong}).

    Raises:
        DataError: the file is missing or is no index.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such index; `i2r data index` writes it")
    try:
        return json.loads(parquet.read_metadata(path).metadata[_SUMMARY])
    except (pa.ArrowException, KeyError, TypeError, OSError) as error:
        raise DataError(f"{path}: not an index of `i2r data index`: {error}") from None


def read_index(path: Path, *parts: str) -> dict[str, Any]:
    """The index in a Parquet table, as write_index was given it.

    Args:
        parts: `sizes` and `files`, which are left out otherwise; their columns are then not read.

    Raises:
        DataError: as read_summary.
    """
    summary = read_summary(path)
    wanted = {"sizes": _SIZES, "files": _FILES}
    columns = ["image", "split", "pixels", *(name for part in parts for name in wanted[part])]
    try:
        table = parquet.read_table(path, columns=columns).combine_chunks()
        pixels = table["pixels"].combine_chunks()
        values = {name: table[name].to_numpy().tolist() for name in columns if name != "pixels"}
    except (pa.ArrowException, KeyError, OSError) as error:
        raise DataError(f"{path}: not an index of `i2r data index`: {error}") from None
    index: dict[str, Any] = {name: value for name, value in summary.items() if name != "images"}
    index |= {split: {} for split in _SPLITS}
    # by numpy, which is much faster than to_pylist
    numbers, counts, ends = (part.to_numpy().tolist() for part in (pixels.keys, pixels.items, pixels.offsets))
    classes = list(map(str, numbers))
    for name, split, (start, end) in zip(values["image"], values["split"], pairwise(ends), strict=True):
        index[split][name] = dict(zip(classes[start:end], counts[start:end], strict=True))
    for part in parts:
        pairs = zip(*(values[name] for name in wanted[part]), strict=True)
        index[part] = dict(zip(values["image"], map(list, pairs), strict=True))
    return index
