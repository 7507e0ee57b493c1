"""What identifies a data set in the key of its data job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from i2r.config.base import ParamsError
from i2r.config.schema import Data
from i2r.data.content import Listing, is_there, known_digest


def data_identity(data: Data, state: Path, where: str) -> dict[str, Any]:
    """Source, lists and digest of a data set, or its folder if that is not there to be read.

    Args:
        state: folder in which sizes and times of files are kept, see content.known_digest.
        where: name of the section, for messages.

    Raises:
        ParamsError: the data set cannot be read, or its digest is not data.digest.
    """
    root, uses = Path(str(data.root)), {"source": data.source, **_lists_of(data)}
    otherwise = uses | ({"digest": data.digest} if data.digest else {"root": str(data.root)})
    if not is_there(root, data.source):  # the data job says what is missing
        return otherwise

    def listing() -> Listing | None:
        from i2r.data.sources import open_source

        found = open_source(data.source).listing
        return found and found(uses, root)

    try:
        found = known_digest(state, root, uses, listing)
    except (ValueError, OSError) as error:
        raise ParamsError(f"{where}: {error}") from None
    if found is None:
        return otherwise
    if data.digest not in (None, found):
        raise ParamsError(
            f"{where}.digest: {root} has lists, images and masks with the digest {found}, but the params have "
            f"{data.digest}"
        )
    return uses | {"digest": found}


def _lists_of(data: Data) -> dict[str, str | None]:
    """The list files; None: all images by id."""
    by_id = data.source in ("coco", "coco-crowds")
    usual = {} if by_id else {"train_list": "lists/train.txt", "val_list": "lists/val.txt"}
    return {name: getattr(data, name) or usual.get(name) for name in ("train_list", "val_list")}
