"""List files in the forms that users have: one image per line, as an id, a path, or an image and its mask."""

from __future__ import annotations

import codecs
import re
from pathlib import Path, PurePosixPath

from i2r.data.sources import DataError

_WITH_CLASS = re.compile(r"(.+)__(\d+)")  # HSNet: an image once for each of its classes
_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_text(path: Path) -> str:
    """A text file in UTF-8 or UTF-16 (with or without a byte order mark), or else in Windows' Western encoding.

    Raises:
        DataError: the file is missing or is no text.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such list file")
    data = path.read_bytes()
    encodings = [name for mark, name in _BOMS.items() if data.startswith(mark)]
    if not encodings and b"\0" in data[:200]:
        encodings = ["utf-16-le" if data[1:2] == b"\0" else "utf-16-be"]
    for encoding in encodings or ["utf-8", "cp1252"]:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise DataError(f"{path}: not a text file in UTF-8, UTF-16 or Windows-1252")


def read_list(path: Path, image_folder: str | None = None, mask_folder: str | None = None) -> list[str]:
    """The ids of a list file, in its order.

    A line is an id (`2007_000033`, with or without a suffix), an image's path, or an image and a mask with the same
    id, separated by spaces, a tab or a comma; slashes may lean either way, and anything may stand before the folders.
    HSNet's `ID__CLASS` names an image once for each class; other lists must not repeat an id.

    Args:
        image_folder, mask_folder: names of the folders that must hold the files; None: any.

    Raises:
        DataError: the file is missing or empty, an id is repeated, or a line has another form.
    """
    seen: set[str] = set()
    names: dict[str, None] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        words = [
            word.strip("\"' ") for word in re.split(r"[,;\t]" if re.search(r"[,;\t]", line) else r"\s+", line)
        ]
        words = [word.replace("\\", "/") for word in words if word]
        if not words:
            continue
        name, entry = _id_of(words, image_folder, mask_folder)
        if name is None:
            images, masks = image_folder or "FOLDER", mask_folder or "FOLDER"
            raise DataError(
                f"{path}:{number}: expected ID, {images}/ID.jpg, ID__CLASS or {images}/ID.jpg {masks}/ID.png with one "
                f"ID, got {line!r}"
            )
        if entry in seen:
            raise DataError(f"{path}:{number}: {entry} is in the list twice")
        seen.add(entry)
        names[name] = None
    if not names:
        raise DataError(f"{path}: the list is empty")
    return list(names)


def _id_of(words: list[str], image_folder: str | None, mask_folder: str | None) -> tuple[str | None, str]:
    """Id of a line, and what must not be repeated; None for a line of another form."""
    image = PurePosixPath(words[0])
    name = image.stem if image.suffix.lower() in (".jpg", ".jpeg", ".png") else image.name
    if len(image.parts) > 1 and image_folder and image.parent.name != image_folder:
        return None, ""
    if len(words) == 1:
        if len(image.parts) == 1 and (found := _WITH_CLASS.fullmatch(name)):
            return found[1], name
        return name, name
    mask = PurePosixPath(words[1])
    if len(words) > 2 or mask.suffix.lower() != ".png" or mask.stem != name:
        return None, ""
    if mask_folder and len(mask.parts) > 1 and mask.parent.name != mask_folder:
        return None, ""
    return name, name
