# ruff: noqa: E501  (the table has one case a line)
"""Inputs that are wrong, and the sentence that each gets; `python tests/test_bad_inputs.py` writes docs/bad-inputs.md."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from i2r import cli
from i2r.files import read_json, write_text

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "bad-inputs.md"
TINY = "extends: tiny.yaml\nexperiment: tiny\n"
PREDICT = "predict --weights w.safetensors --query q.png --support s.png m.png --out out --device cpu"
IMPORT = "import-checkpoint --kind i2r-released {} out.safetensors"
NAN = {"a.weight": torch.tensor([1.0, float("nan")])}


I2R = f"{shlex.quote(sys.executable)} -m i2r"


def mounted(mount: str) -> str:
    """A command ({}) in a mount namespace of its own, which needs no rights and leaves nothing behind."""
    return f"unshare --map-root-user --mount sh -c '{mount} && cd \"$PWD\" && exec {{}}'"


def full(size: str, folder: str) -> str:
    """A command for which a folder is on a disk of this size."""
    return mounted(f"mount -t tmpfs -o size={size} none {folder}")


def read_only(folder: str) -> str:
    return mounted(f"mount --bind {folder} {folder} && mount -o remount,ro,bind {folder}")


class Case(NamedTuple):
    """`spoil` changes the folder; a command `data` is `plan` followed by the run of the step data.

    The command runs in this process, or in a shell as `within` says, where {} stands for it.
    """

    area: str
    what: str
    spoil: Callable[[], object]
    command: str
    said: str
    within: str = ""


def text(name: str, content: str | bytes) -> Callable[[], object]:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda: (Path(name).parent.mkdir(parents=True, exist_ok=True), Path(name).write_bytes(data))


def params(more: str) -> Callable[[], object]:
    return text("params.yaml", TINY + more)


def write_image(path: str, mode: str = "RGB", size: tuple[int, int] = (40, 40), value: int = 0) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    image = Image.new(mode, size, value)
    if mode == "P":
        image.putpalette([0] * 768)
    image.save(path)


def voc(spoil: Callable[[], object]) -> Callable[[], None]:
    """A data set of one image in `voc`, then spoiled."""

    def make() -> None:
        write_image("voc/JPEGImages/a.jpg")
        write_image("voc/SegmentationClassAug/a.png", "P", value=1)
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
    Case("params", "no params file", lambda: os.remove("params.yaml"), "plan", "params.yaml: no such params file; `i2r preset"),
    Case("params", "a key that does not exist", params("train: {stepps: 3}\n"), "plan", "train.stepps"),
    Case("params", "a word instead of a number", params("train: {steps: many}\n"), "plan", "train.steps"),
    Case("params", "a section that stands twice", params("train: {}\ntrain: {}\n"), "plan", "'train' is given twice"),
    Case("params", "in UTF-16", text("params.yaml", TINY.encode("utf-16")), "plan", "not UTF-8 text"),
    Case("params", "in Latin-1", text("params.yaml", (TINY + "# ü").encode("latin-1")), "plan", "not UTF-8 text"),
    Case("params", "no YAML", params("train: [\n"), "plan", "not YAML: line 4: expected the node content"),
    Case("params", "a list", text("params.yaml", "- 1\n"), "plan", "expected a mapping of sections"),
    Case("params", "a device that is none", params("runtime: {device: gpu}\n"), "plan", "runtime.device: must be auto, cpu, cuda or cuda:N"),
    Case("params", "a folder", lambda: (os.remove("params.yaml"), os.mkdir("params.yaml")), "plan", "params.yaml: no such"),
    Case("params", "a preset that does not exist", lambda: None, "preset pascall", "pascall: no such preset"),
    Case("data", "no folder", voc(lambda: shutil.rmtree("voc")), "data", "voc"),
    Case("data", "no image folder", voc(lambda: shutil.rmtree("voc/JPEGImages")), "data", "voc/JPEGImages: no such folder"),
    Case("data", "an image that is missing", voc(lambda: os.remove("voc/JPEGImages/a.jpg")), "data", "a.jpg: no such file"),
    Case("data", "an image that is cut", voc(text("voc/JPEGImages/a.jpg", b"\xff\xd8\xff")), "data", "a.jpg"),
    Case("data", "an image of 0 bytes", voc(text("voc/JPEGImages/a.jpg", "")), "data", "a.jpg: the file is empty"),
    Case("data", "a folder in place of an image", voc(lambda: (os.remove("voc/JPEGImages/a.jpg"), os.mkdir("voc/JPEGImages/a.jpg"))), "data", "a.jpg: a folder, not a file"),
    Case("data", "a mask that is cut in its header", voc(text("voc/SegmentationClassAug/a.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0")), "data", "a.png: its header is damaged"),
    Case("data", "a mask in colour", voc(lambda: write_image("voc/SegmentationClassAug/a.png")), "data", "a mask must be a palette"),
    Case("data", "a mask of another size", voc(lambda: write_image("voc/SegmentationClassAug/a.png", "L", (9, 9))), "data", "a.png"),
    Case("data", "a class that does not exist", voc(lambda: write_image("voc/SegmentationClassAug/a.png", "L", value=77)), "data", "77"),
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
    Case("images", "one file for a shot", lambda: None, PREDICT.replace(" m.png", ""), "an image and a mask for each shot"),
    Case("environment", "not in a clone", lambda: os.remove("Snakefile"), "track", "not in a clone of the project"),
    Case("environment", "a port out of range", lambda: None, "ui --port 99999", "must be a number from 1 to 65535"),
    Case("environment", "standard output on a full disk", lambda: None, "readings", "standard output: No space left on device (make room there", "{} >/dev/full"),
    Case("environment", "a folder that cannot be written to", lambda: None, "preset tiny --force", "Read-only file system", read_only(".")),
    Case("disk", "full", lambda: None, "plan", "command again); specs are written to results/specs", full("8k", "results")),
    Case("disk", "full, for data", lambda: None, "data", "/out: No space left on device", full("64k", "results/state")),
    Case("disk", "full, for products", lambda: None, "data", "No space left on device", full("8k", "results/store")),
    Case("disk", "full, for MLflow", lambda: None, "track", "database or disk is full", full("8k", "results")),
    Case("disk", "results/ is read-only", lambda: None, "plan", "Read-only file system (make it writable, then run the same command again); specs are", read_only("results")),
    Case("disk", "results/ is read-only", lambda: None, "data", "command again); data shapes needs a lock", read_only("results")),
    Case("disk", "results/ is read-only", lambda: None, "stage all", "command again); the workflow needs a lock", read_only("results")),
    Case("disk", "results/ is read-only", lambda: None, "track", "Read-only file system", read_only("results")),
    Case("disk", "results/ is read-only", lambda: None, "ui --port 59391", "Read-only file system", read_only("results")),
    Case("MLflow", "no server", set_variable("MLFLOW_TRACKING_URI", "http://127.0.0.1:9"), "track", "no answer within"),
    Case("MLflow", "a folder", set_variable("MLFLOW_TRACKING_URI", "./mlruns"), "track", "MLflow cannot use it"),
]  # fmt: skip


@contextlib.contextmanager
def clone(folder: Path, results: bool = True) -> Iterator[None]:
    """Work in a folder that has what the commands need of a clone, with the variables of a user."""
    before, variables = Path.cwd(), dict(os.environ)
    shutil.copytree(ROOT / "workflow/presets", folder / "workflow/presets")
    (folder / "Snakefile").touch()
    (folder / "params.yaml").write_text(TINY, encoding="utf-8")
    if results:
        (folder / "results/state").mkdir(parents=True)
        (folder / "results/store").mkdir()
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.environ["PYTHONPATH"] = str(ROOT)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(variables)


def said_here(command: Sequence[str]) -> tuple[int, str]:
    """Status and standard error of a command in this process."""
    out, said = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
            cli.main(command)
    except SystemExit as ended:
        code = ended.code
    return code, said.buffer.getvalue().decode()


@functools.cache
def can_mount() -> bool:
    tried = ["sh", "-c", full("8k", "/mnt").format("true")]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(tried, check=False, capture_output=True).returncode == 0
    )


def said_by_a_shell(command: str) -> tuple[int, str]:
    """Status and standard error of a command in a shell; the test is skipped where nothing can be mounted."""
    if command.startswith("unshare") and not can_mount():
        pytest.skip("no mount namespace can be made here")
    done = subprocess.run(["bash", "-c", command], check=False, capture_output=True, timeout=120)
    return done.returncode, done.stderr.decode()


def spoken(case: Case, folder: Path) -> str:
    """What the command says in a folder that is spoiled; it must end with an error and no traceback."""
    with clone(folder, case.what != "results/ is a file"):
        case.spoil()
        command = case.command
        if command == "data":
            assert said_here(["plan"])[0] == 0
            specs = Path("results/specs/data").glob("*.json")
            # not the drawings, which the plan has for the target across
            spec = next(path for path in specs if read_json(path)["label"] != "shapes-drawn")
            command = f"run data --spec {spec}"
        if case.within:
            code, said = said_by_a_shell(case.within.format(f"{I2R} {command}"))
        else:
            code, said = said_here(shlex.split(command))
    assert code in (1, 2), said
    assert "Traceback" not in said
    lines = said.replace(str(folder), "CLONE").strip().splitlines()
    first = next(number for number, line in reversed(list(enumerate(lines))) if line.startswith("i2r"))
    return re.sub(r"[0-9a-f]{12}", "KEY", " ".join(lines[first:]).partition(": ")[2])


def row_of(case: Case) -> str:
    """The beginning of the case's row of the page."""
    command = "run data" if case.command == "data" else case.command.split()[0]
    return f"| {case.area} | {case.what} | `i2r {command}` |"


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.area}: {case.what}")
def test_each_gets_its_sentence(case: Case, tmp_path: Path):
    if case.area in ("MLflow", "disk") and case.command.split()[0] in ("track", "ui"):
        pytest.importorskip("mlflow", reason="mlflow is not installed")
    found = spoken(case, tmp_path)
    assert case.said in found
    row = row_of(case)
    (line,) = (line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(row))
    assert case.said in line, "out of date; `python tests/test_bad_inputs.py` writes it"


def test_the_page_has_no_other_rows():
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert len(rows) == len(CASES) + 2


@pytest.mark.parametrize(
    "write",
    [
        "import torch; torch.save(torch.zeros(2**18), temporary)",
        "import torch; from safetensors.torch import save_file; save_file({'a': torch.zeros(2**18)}, temporary)",
        "import numpy; numpy.savez_compressed(temporary, numpy.random.rand(2**17))",
    ],
    ids=["torch", "safetensors", "numpy"],
)
def test_a_full_disk_is_named_whatever_the_library_says(write: str, tmp_path: Path):
    code = f"""
from i2r.errors import as_sentences
from i2r.files import replacing
with as_sentences(), replacing("disk/weights.pt") as temporary:
    {write}
"""
    with clone(tmp_path):
        Path("disk").mkdir()
        text("write.py", code)()
        status, said = said_by_a_shell(full("64k", "disk").format(f"{sys.executable} write.py"))
    assert (status, said) == (
        1,
        "i2r: disk/weights.pt: No space left on device (make room there, then run the same command again)\n",
    )


PRINTING = ("readings", "params", "params --json", "plan", "show", "data status voc2012", "--help")


@pytest.mark.parametrize("within", ["{} | true", "{} >&-"], ids=["a reader that ends", "closed"])
@pytest.mark.parametrize("command", PRINTING)
def test_output_that_nobody_reads_is_no_error(command: str, within: str, tmp_path: Path):
    with clone(tmp_path):
        text("results/tiny/report/table.md", "a table\n")()
        _, said = said_by_a_shell(within.format(f"{I2R} {command}"))
    assert said == ""


LABEL = "Größe Σ"


def test_ctrl_c_during_the_imports_is_an_interruption(tmp_path: Path):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'i2r.cli':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    paths = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "i2r", "readings"]
    done = subprocess.run(command, check=False, env=paths, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "i2r: interrupted\n")


@pytest.fixture
def latin(tmp_path: Path) -> dict[str, str]:
    """Variables of a user whose locale is Latin-1."""
    made = tmp_path / "locales" / "en_US.ISO-8859-1"
    made.parent.mkdir()
    command = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(made)]
    if (
        shutil.which("localedef") is None
        or subprocess.run(command, check=False, capture_output=True).returncode
    ):
        pytest.skip("localedef cannot make a locale here")
    variables = {"LOCPATH": str(made.parent), "LC_ALL": made.name, "PYTHONUTF8": "0"}
    encoding = [sys.executable, "-c", "import locale; print(locale.getpreferredencoding())"]
    assert subprocess.check_output(encoding, env=os.environ | variables, text=True) == "ISO-8859-1\n"
    return variables


def test_a_locale_in_latin_1_changes_no_key_and_no_page(latin: dict[str, str], tmp_path: Path):
    made = {}
    for name, variables in {"utf8": {"PYTHONUTF8": "1"}, "latin": latin}.items():
        with clone(tmp_path / name):
            text("params.yaml", TINY + f"methods: {{i2r: {{label: {LABEL}}}}}\n")()
            Path("docs").mkdir()
            os.environ.update(variables)
            assert said_by_a_shell(f"{I2R} plan >plan.txt && {I2R} dev write-docs >docs.txt") == (0, "")
            paths = [Path("plan.txt"), *Path("results/specs").rglob("*.json"), *Path("docs").iterdir()]
            made[name] = {str(path): path.read_bytes() for path in paths}
    assert made["latin"] == made["utf8"]
    assert any(LABEL.encode() in content for content in made["latin"].values())


@pytest.mark.slow
def test_a_locale_in_latin_1_changes_nothing_in_a_report(latin: dict[str, str], tmp_path: Path):
    script = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT / "tests")!r})
import fake_jobs
fake_jobs.report(Path("results"), count=20, methods={{**fake_jobs.METHODS, "i2r": {{"label": "{LABEL}"}}}})
"""
    made = {}
    for name, variables in {"utf8": {"PYTHONUTF8": "1"}, "latin": latin}.items():
        with clone(tmp_path / name):
            text("make.py", script)()
            os.environ.update(variables)
            assert said_by_a_shell(f"{sys.executable} make.py")[0] == 0
            paths = [path for path in Path("results/store/report").rglob("*") if path.is_file()]
            made[name] = {str(path): path.read_bytes() for path in paths if path.name != "manifest.json"}
    assert made["latin"] == made["utf8"]
    assert sum(LABEL.encode() in content for content in made["latin"].values()) > 2


def main() -> None:
    head = "# What is said about wrong inputs\n\nWritten by `python tests/test_bad_inputs.py`; each row is a test.\n\n"
    head += "| input | what is wrong | command | message |\n| --- | --- | --- | --- |\n"
    rows = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            said = spoken(case, Path(folder)).replace("|", "\\|")
        rows.append(f"{row_of(case)} {said} |\n")
    write_text(PAGE, head + "".join(rows))


if __name__ == "__main__":
    sys.exit(main())
