"""An index as a Parquet table: a row for each image of a split, a column for each class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from i2r.data.sources import DataError
from i2r.files import replacing

_ABOUT = b"i2r"  # metadata: source, names of the classes, digest, images left out
_SPLITS = ("train", "val")


def write_index(path: Path, index: dict[str, Any]) -> None:
    """Write an index (voc.index_pairs, with the name of its source) as Parquet.

    Columns: image, split, height, width, image_sha256, mask_sha256, and pixels_1, pixels_2 ... of each class; rows in
    the order of the lists.
    """
    import pyarrow as pa
    from pyarrow import parquet

    rows = [(split, name) for split in _SPLITS for name in index[split]]
    columns: dict[str, Any] = {
        "image": [name for _, name in rows],
        "split": pa.array([split for split, _ in rows]).dictionary_encode(),
        "height": pa.array([index["sizes"][name][0] for _, name in rows], pa.int32()),
        "width": pa.array([index["sizes"][name][1] for _, name in rows], pa.int32()),
        "image_sha256": [index["files"][name][0] for _, name in rows],
        "mask_sha256": [index["files"][name][1] for _, name in rows],
    }
    for cls in range(1, len(index["classes"]) + 1):
        pixels = [index[split][name].get(str(cls), 0) for split, name in rows]
        columns[f"pixels_{cls}"] = pa.array(pixels, pa.int32())
    about = {name: index[name] for name in ("source", "classes", "digest", "left_out") if name in index}
    table = pa.table(columns).replace_schema_metadata({_ABOUT: json.dumps(about).encode()})
    with replacing(path) as temporary:
        parquet.write_table(table, temporary, compression="zstd")


def read_index(path: Path, files: bool = False) -> dict[str, Any]:
    """The index in a Parquet table, or in a data job's index.json.

    Args:
        files: read the digests of the files as well.

    Raises:
        DataError: the file is missing or is no index.
    """
    from i2r.files import read_json

    if not path.is_file():
        raise DataError(f"{path}: no such index; `i2r data index` writes it")
    if path.suffix == ".json":
        return read_json(path)
    import pyarrow as pa
    from pyarrow import parquet

    try:
        schema = parquet.read_schema(path)
        about = json.loads(schema.metadata[_ABOUT])
        skipped = () if files else ("image_sha256", "mask_sha256")
        columns = parquet.read_table(path, columns=[c for c in schema.names if c not in skipped]).to_pydict()
    except (pa.ArrowException, KeyError, TypeError, OSError) as error:
        raise DataError(f"{path}: not an index of `i2r data index`: {error}") from None
    index: dict[str, Any] = about | {split: {} for split in _SPLITS} | {"sizes": {}}
    pixels = {str(cls): columns[f"pixels_{cls}"] for cls in range(1, len(about["classes"]) + 1)}
    for row, (name, split) in enumerate(zip(columns["image"], columns["split"], strict=True)):
        index[split][name] = {cls: counts[row] for cls, counts in pixels.items() if counts[row]}
        index["sizes"][name] = [columns["height"][row], columns["width"][row]]
    if files:
        pairs = zip(columns["image_sha256"], columns["mask_sha256"], strict=True)
        index["files"] = dict(zip(columns["image"], map(list, pairs), strict=True))
    return index
