"""Jobs that fetch official archives: what stands for these in keys, what is there of them, and what has changed.

The archives' names and checksums are in the keys, not what is in the data folder, so keys are the same before and
after a download. Files that change there later are found by their sizes and times (i2r/data/content.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i2r.config.base import ParamsError
from i2r.config.data_set import OFFICIAL
from i2r.config.experiment import Runtime
from i2r.data.content import is_there
from i2r.pipeline.identity import digest_now
from i2r.pipeline.spec import JobError, Spec

if TYPE_CHECKING:
    from i2r.data.official import Wanted

FETCHED = "fetched.json"  # product of the step
ROLE = "fetched"  # of the job that fetches, as an input of those that read what it has fetched


def table_of(runtime: Runtime) -> dict[str, Any]:
    """The archives by name.

    Raises:
        ParamsError: the table cannot be read.
    """
    from i2r.data.fetch.table import TABLE, FetchError, read_table

    try:
        return read_table(Path(runtime.archives) if runtime.archives else TABLE)
    except FetchError as error:
        raise ParamsError(f"runtime.archives: {error}") from None


def fetch_params(names: tuple[str, ...], folder: str, runtime: Runtime) -> dict[str, Any]:
    """The params of a job that fetches.

    Args:
        names: of the archives.
        folder: of the data set that they make, below the data folder; empty for weights.

    Raises:
        ParamsError: the table has no such archive.
    """
    table = table_of(runtime)
    if unknown := [name for name in names if name not in table]:
        raise ParamsError(f"runtime.archives: {runtime.archives} has no archive {', '.join(unknown)}")
    known = {name: {"file": table[name].file, "checksum": table[name].checksum} for name in names}
    return {"archives": known} | ({"folder": folder} if folder else {})


def wanted(params: Mapping[str, Any], runtime: Runtime) -> Wanted:
    """What a job with these params is to have in the data folder.

    Raises:
        ParamsError: the table cannot be read.
        JobError: it is not the one that the job was planned with.
    """
    from i2r.data.official import Wanted

    names, folder = tuple(params["archives"]), params.get("folder", "")
    if fetch_params(names, folder, runtime) != params:
        raise JobError(f"runtime.archives: {runtime.archives} has changed since this was planned")
    return Wanted(
        Path(runtime.data_root), names, folder, table_of(runtime), tuple(runtime.mirrors), runtime.offline
    )


def preview(spec: Spec) -> tuple[str, str]:
    """What a job that fetches would do, for people, and why it cannot; each is empty if there is nothing to say.

    Raises:
        ParamsError: the table cannot be read.
    """
    text, refused = _preview(spec)
    lines = [f"{spec.title}, into {spec.runtime['data_root']}:", *text.splitlines()] if text else []
    lines += [f"{spec.title} cannot start: {refused}"] if refused else []
    return "\n  ".join(lines), refused


def _preview(spec: Spec) -> tuple[str, str]:
    from i2r.data.fetch.table import FetchError
    from i2r.data.fetch.work import refuse
    from i2r.data.official import lacking, lacking_text

    asked = wanted(spec.params, Runtime(**spec.runtime))
    try:
        states = lacking(asked)
        text = lacking_text(asked, states) if states else ""
    except FetchError as error:
        return "", str(error)
    try:
        refuse(states, asked.root, asked.offline)
    except FetchError as error:
        return text, str(error)
    return text, ""


def is_present(spec: Spec) -> bool:
    """Whether the data folder has what a job has fetched: a data set, or a file of weights."""
    path = Path(spec.data_root)
    if "folder" not in spec.params:
        return path.is_file()
    sources = (source for source, official in OFFICIAL.items() if official.folder == spec.params["folder"])
    return is_there(path, next(sources))


def changed(spec: Spec, made: Mapping[str, Any], results: Path) -> str | None:
    """A sentence if official data are not as they were when a data job read them; None for any other job.

    Args:
        made: the job's manifest.
    """
    if spec.step != "data" or ROLE not in spec.inputs:
        return None
    root, uses = Path(spec.data_root), spec.params["data"]
    if not is_there(root, uses["source"]):
        return None
    try:
        now = digest_now(uses, root, results / "state" / "content", again=True)
    except (ValueError, OSError) as error:
        return str(error)
    if now == made["metrics"].get("digest"):
        return None
    return f"{root}: images, masks or lists have changed since they were indexed"
