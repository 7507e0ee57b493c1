# ruff: noqa: E501  (the table has one case a line)
"""Inputs that are wrong, and the sentence that each gets; `python tests/test_bad_inputs.py` writes docs/bad-inputs.md."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from i2r import cli
from i2r.files import write_text

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "bad-inputs.md"
TINY = "extends: tiny.yaml\nexperiment: tiny\n"
PREDICT = "predict --weights w.safetensors --query q.png --support s.png m.png --out out --device cpu"
IMPORT = "import-checkpoint --kind i2r-released {} out.safetensors"
NAN = {"a.weight": torch.tensor([1.0, float("nan")])}


class Case(NamedTuple):
    """`spoil` changes the folder; a command `data` is `plan` followed by the run of the step data."""

    area: str
    what: str
    spoil: Callable[[], object]
    command: str
    said: str


def text(name: str, content: str | bytes) -> Callable[[], object]:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda: (Path(name).parent.mkdir(parents=True, exist_ok=True), Path(name).write_bytes(data))


def params(more: str) -> Callable[[], object]:
    return text("params.yaml", TINY + more)


def picture(path: str, mode: str = "RGB", size: tuple[int, int] = (40, 40), value: int = 0) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    image = Image.new(mode, size, value)
    if mode == "P":
        image.putpalette([0] * 768)
    image.save(path)


def voc(spoil: Callable[[], object]) -> Callable[[], None]:
    """A data set of one image in `voc`, then spoiled."""

    def make() -> None:
        picture("voc/JPEGImages/a.jpg")
        picture("voc/SegmentationClassAug/a.png", "P", value=1)
        for name in ("train", "val"):
            text(f"voc/{name}.txt", "a\n")()
        data = "{source: voc, root: voc, train_list: train.txt, val_list: val.txt}"
        text("params.yaml", f"extends: voc-subset.yaml\nexperiment: tiny\ndata: {data}\n")()
        text("data/weights/resnet50.safetensors", "")()
        spoil()

    return make


def set_variable(name: str, value: str) -> Callable[[], object]:
    return lambda: os.environ.__setitem__(name, value)


CASES = [
    Case("params", "no params file", lambda: os.remove("params.yaml"), "plan", "params.yaml: no such params file"),
    Case("params", "a key that does not exist", params("train: {stepps: 3}\n"), "plan", "train.stepps"),
    Case("params", "a word instead of a number", params("train: {steps: many}\n"), "plan", "train.steps"),
    Case("params", "a section that stands twice", params("train: {}\ntrain: {}\n"), "plan", "'train' is given twice"),
    Case("params", "in UTF-16", text("params.yaml", TINY.encode("utf-16")), "plan", "not UTF-8 text"),
    Case("params", "in Latin-1", text("params.yaml", (TINY + "# ü").encode("latin-1")), "plan", "not UTF-8 text"),
    Case("params", "no YAML", params("train: [\n"), "plan", "not YAML"),
    Case("params", "a list", text("params.yaml", "- 1\n"), "plan", "expected a mapping of sections"),
    Case("params", "a device that is none", params("runtime: {device: gpu}\n"), "plan", "runtime.device"),
    Case("params", "a folder", lambda: (os.remove("params.yaml"), os.mkdir("params.yaml")), "plan", "params.yaml: no such"),
    Case("params", "a preset that does not exist", lambda: None, "preset pascall", "pascall: no such preset"),
    Case("data", "no folder", voc(lambda: shutil.rmtree("voc")), "data", "voc"),
    Case("data", "no image folder", voc(lambda: shutil.rmtree("voc/JPEGImages")), "data", "has no folder JPEGImages"),
    Case("data", "an image that is missing", voc(lambda: os.remove("voc/JPEGImages/a.jpg")), "data", "a.jpg: no such file"),
    Case("data", "an image that is cut", voc(text("voc/JPEGImages/a.jpg", b"\xff\xd8\xff")), "data", "a.jpg"),
    Case("data", "a mask in colour", voc(lambda: picture("voc/SegmentationClassAug/a.png")), "data", "a mask must be a palette"),
    Case("data", "a mask of another size", voc(lambda: picture("voc/SegmentationClassAug/a.png", "L", (9, 9))), "data", "a.png"),
    Case("data", "a class that does not exist", voc(lambda: picture("voc/SegmentationClassAug/a.png", "L", value=77)), "data", "77"),
    Case("lists", "no list", voc(lambda: os.remove("voc/val.txt")), "plan", "val.txt: no such list file"),
    Case("lists", "empty", voc(text("voc/val.txt", "")), "plan", "val.txt: the list is empty"),
    Case("lists", "an id twice", voc(text("voc/val.txt", "a\na\n")), "plan", "val.txt:2: a is in the list twice"),
    Case("lists", "three words", voc(text("voc/val.txt", "a b c\n")), "plan", "val.txt:1: expected ID"),
    Case("lists", "no text", voc(text("voc/val.txt", b"\x89PNG\0\x81\0\0")), "plan", "val.txt: not a text file"),
    Case("weights", "no file", lambda: None, IMPORT.format("none.pth"), "none.pth: no such weights file"),
    Case("weights", "a web page", text("w.pth", "<html>404</html>"), IMPORT.format("w.pth"), "w.pth: not a readable weights file"),
    Case("weights", "a pointer file", text("w.safetensors", "version https://git-lfs"), IMPORT.format("w.safetensors"), "not a readable"),
    Case("weights", "empty", text("w.pth", ""), IMPORT.format("w.pth"), "w.pth: not a readable weights file"),
    Case("weights", "no tensors", lambda: torch.save({"a": 1}, "w.pth"), IMPORT.format("w.pth"), "no state dict of tensors"),
    Case("weights", "keys that are no names", lambda: torch.save({1: torch.zeros(1)}, "w.pth"), IMPORT.format("w.pth"), "keys are not names"),
    Case("weights", "NaN", lambda: save_file(NAN, "w.safetensors"), IMPORT.format("w.safetensors"), "a.weight contains NaN"),
    Case("weights", "of another network", lambda: save_file({"a": torch.zeros(1)}, "w.safetensors"), PREDICT, "neither a network file"),
    Case("weights", "a folder", lambda: os.mkdir("w.pth"), IMPORT.format("w.pth"), "no such weights file"),
    Case("jobs", "a spec that is missing", lambda: None, "run data --spec none.json", "none.json: no such spec"),
    Case("jobs", "a spec that is no JSON", text("s.json", "{"), "run data --spec s.json", "s.json: not a readable spec"),
    Case("jobs", "a spec in UTF-16", text("s.json", "{}".encode("utf-16")), "run data --spec s.json", "s.json: not a readable"),
    Case("jobs", "results/ is a file", text("results", ""), "plan", "specs are written to results/specs"),
    Case("jobs", "no report yet", lambda: None, "show", "no report yet"),
    Case("pictures", "one file for a shot", lambda: None, PREDICT.replace(" m.png", ""), "an image and a mask for each shot"),
    Case("environment", "not in a clone", lambda: os.remove("Snakefile"), "track", "no clone of the project"),
    Case("environment", "a port out of range", lambda: None, "ui --port 99999", "must be a number from 1 to 65535"),
    Case("MLflow", "no server", set_variable("MLFLOW_TRACKING_URI", "http://127.0.0.1:9"), "track", "no answer within"),
    Case("MLflow", "a folder", set_variable("MLFLOW_TRACKING_URI", "./mlruns"), "track", "MLflow cannot use it"),
]  # fmt: skip


def spoken(case: Case, folder: Path) -> str:
    """What the command says in a folder that is spoiled; it must end with an error and no traceback."""
    before, variables = Path.cwd(), dict(os.environ)
    shutil.copytree(ROOT / "workflow/presets", folder / "workflow/presets")
    (folder / "Snakefile").touch()
    (folder / "params.yaml").write_text(TINY, encoding="utf-8")
    (folder / "results").mkdir(exist_ok=True) if case.what != "results/ is a file" else None
    out, said = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.chdir(folder)
    try:
        case.spoil()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
            if case.command == "data":
                cli.main(["plan"])
                (spec,) = Path("results/specs/data").glob("*.json")
                command = ["run", "data", "--spec", str(spec)]
            else:
                command = shlex.split(case.command)
            with pytest.raises(SystemExit) as ended:
                cli.main(command)
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(variables)
    assert ended.value.code in (1, 2)
    lines = said.buffer.getvalue().decode().replace(str(folder), "CLONE").strip().splitlines()
    first = next(number for number, line in reversed(list(enumerate(lines))) if line.startswith("i2r"))
    return re.sub(r"[0-9a-f]{12}", "KEY", " ".join(lines[first:]).partition(": ")[2])


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.area}: {case.what}")
def test_each_gets_its_sentence(case: Case, tmp_path: Path):
    if case.area == "MLflow":
        pytest.importorskip("mlflow", reason="mlflow is not installed")
    found = spoken(case, tmp_path)
    assert case.said in found
    row = f"| {case.area} | {case.what} |"
    (line,) = (line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(row))
    assert case.said in line, "out of date; `python tests/test_bad_inputs.py` writes it"


def test_the_page_has_no_other_rows():
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert len(rows) == len(CASES) + 2


def main() -> None:
    head = "# What is said about wrong inputs\n\nWritten by `python tests/test_bad_inputs.py`; each row is a test.\n\n"
    head += "| input | what is wrong | command | message |\n| --- | --- | --- | --- |\n"
    rows = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            said = spoken(case, Path(folder)).replace("|", "\\|")
        command = "run data" if case.command == "data" else case.command.split()[0]
        rows.append(f"| {case.area} | {case.what} | `i2r {command}` | {said} |\n")
    write_text(PAGE, head + "".join(rows))


if __name__ == "__main__":
    sys.exit(main())
