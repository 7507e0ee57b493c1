"""The report's files beside the page: Markdown, LaTeX and the checklist."""

from __future__ import annotations

import hashlib
import json
import re
from types import SimpleNamespace

import fake_jobs
import numpy as np
import pandas as pd
import pytest

from i2r.config.data_set import GENERATED
from i2r.report import checklist, cost, latex, page
from i2r.report.results import Results
from i2r.report.target import labels
from i2r.report.text import Grid
from i2r.report.verdicts import audit_grid

MACRO = re.compile(r"\\newcommand\{\\([A-Za-z]+)\}\{(-?\d+\.\d)\} % (.+)")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The folder of the report on the experiment of fake_jobs."""
    return fake_jobs.report(tmp_path_factory.mktemp("report") / "results")


# --- Markdown --------------------------------------------------------------------------------------------------


def test_the_markdown_has_the_sections_and_pictures_of_the_page(home):
    text, page = (home / "report.md").read_text(), (home / "report.html").read_text()
    assert re.findall("^## (.+)$", text, re.M) == [
        title.replace("&#39;", "'") for title in re.findall("<h2>(.+?)</h2>", page)
    ]
    pictures = re.findall(r"!\[.+?\]\((.+?)\)", text)
    assert len(pictures) == len(set(pictures)) == page.count("<img ") > 10
    assert all((home / file).is_file() for file in pictures)
    for name in ("table", "ablation", "priors"):
        rows = [row for row in (home / f"{name}.md").read_text().splitlines() if row.startswith("| ")]
        assert len(rows) > 2 and set(rows) <= set(text.splitlines())
    assert "\n\n\n" not in text and "<strong>" not in text and "&" not in text.replace("& ", "")


# --- LaTeX -----------------------------------------------------------------------------------------------------


def tables_of(text: str) -> list[list[list[str]]]:
    """Cells of each tabular, header included, without rules."""
    found = []
    for body in re.findall(
        r"\\begin\{tabular\}\{[lr]+\}\n\\toprule\n(.+?)\\bottomrule\n\\end\{tabular\}", text, re.S
    ):
        lines = [line for line in body.splitlines() if line != r"\midrule"]
        assert all(line.endswith(r" \\") for line in lines)
        found.append([line.removesuffix(r" \\").split(" & ") for line in lines])
    return found


@pytest.mark.parametrize("name", ["table", "ablation", "priors", "claims", "controls", "strata", "cost"])
def test_every_table_is_there_in_latex(home, name):
    text, markdown = (home / f"{name}.tex").read_text(), (home / f"{name}.md").read_text()
    own = tables_of(text)
    assert (
        0
        < len(own)
        == text.count(r"\begin{table}")
        == text.count(r"\end{table}")
        == len(re.findall("(?m)^\\| :?-", markdown))
    )
    assert text.isascii() and text.count("{") == text.count("}")
    assert not re.search(r"(?<!\\)[%#_](?! Needs)", text)
    for table in own:
        assert len({len(row) for row in table if "multicolumn" not in str(row)}) == 1


def test_numbers_of_the_latex_table_are_those_of_the_csv(home):
    frame = pd.read_csv(home / "table.csv")
    [table] = tables_of((home / "table.tex").read_text())
    rows = table[-len(frame) :]
    for row, values in zip(rows, frame.to_dict("records"), strict=True):
        shown = [re.search(r"\d+\.\d", cell)[0] for cell in row[2:5]]
        columns = ("1-shot fold-0", "1-shot fold-1", "1-shot mean")
        assert shown == [f"{values[column]:.1f}" for column in columns], values["method"]
    best = frame["1-shot mean"].idxmax()
    assert [at for at, row in enumerate(rows) if r"\textbf" in row[4]] == [best]


def test_numbers_have_macros(home):
    text = (home / "numbers.tex").read_text()
    macros = {name: (number, said) for name, number, said in MACRO.findall(text)}
    assert len(macros) == len(text.splitlines()) > 40
    frame = pd.read_csv(home / "table.csv").set_index("id")
    for fold, word in enumerate(("Zero", "One")):
        number, said = macros[f"tableOneItworOneShotMiouFold{word}"]
        assert number == f"{frame.at['i2r', f'1-shot fold-{fold}']:.1f}"
        assert said == f"table1, i2r, 1-shot, mIoU, fold-{fold}"
    assert macros["tableOneBamOneShotMiouMean"][0] == f"{frame.at['bam', '1-shot mean']:.1f}"
    ablation = pd.read_csv(home / "ablation.csv").set_index("method")
    assert macros["tableThreeNoMaskOneShotMiouFoldZero"][0] == f"{ablation.at['no-mask', 'mean']:.1f}"


def test_names_of_macros_have_letters_only():
    assert (
        latex.macro_name("table-s1", "i2r-5-4", "resnet50_bam") == "tableSOneItworFiveFourResnetFiveZeroBam"
    )


def test_signs_of_latex_are_escaped():
    grid = Grid(
        [("", "50 %"), ("a_b", "Δ")], [["R&D {1}", "$5 #1 ~ ^ \\"], ["[1, 2]", "2 × 10² ± 1"]], note="a|b"
    )
    text = latex.table(grid, "I²R <1>")
    assert r"R\&D \{1\} & \$5 \#1 \textasciitilde{} \textasciicircum{} \textbackslash{} \\" in text
    assert r"{[}1, 2{]} & 2 $\times$ 10\textsuperscript{2} $\pm$ 1 \\" in text
    assert r"50 \% & Δ \\" in text and r" & a\_b \\" in text
    assert r"\caption{I\textsuperscript{2}R \textless{}1\textgreater{}. a\textbar{}b}" in text


def test_the_audit_of_the_paper_has_only_known_signs():
    assert latex.table(audit_grid(), "Audit").isascii()


# --- the checklist ---------------------------------------------------------------------------------------------


# SHA-256 of the lines of the published form (v2.0, 7 April 2020): headings, and items with their full stops
FORM = "ea2f28629bf718405229526b1fa6938745223919aa0659f2ca155ea227df8e29"


def grids_of(folder, **costs: float) -> list[Grid]:
    """The parts of the checklist."""
    spec = json.loads((folder / "manifest.json").read_text())["spec"]
    store = folder.parents[1]
    inputs = {role: store / given["step"] / given["key"] for role, given in spec["inputs"].items()}
    results = Results(spec["params"], inputs)
    left_out = page.excluded_classes(results)
    table = cost.table(results).assign(**costs)
    return checklist.grids(results, labels(results), {"": "snakemake report"}, left_out, table)


def answers(folder, **costs: float) -> dict[str, str]:
    """Item of the checklist -> its answer."""
    return {item: answer for grid in grids_of(folder, **costs) for item, answer in grid.rows}


def test_the_checklist_has_the_words_and_the_order_of_the_published_form(home):
    lines = []
    for grid in grids_of(home):
        lines.append(f"{grid.title}, {grid.header[0][1].lower()}:")
        lines += [f"{item}." for item, _ in grid.rows]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == FORM
    assert "v2.0 of 7 April 2020" in (home / "checklist.md").read_text()


def test_the_checklist_has_every_item_and_stands_on_the_page(home):
    found = answers(home)
    assert len(found) == 21 and all(answer.endswith(".") for answer in found.values())
    text = (home / "checklist.md").read_text()
    for item, answer in found.items():
        assert f"| {item} | {answer} |" in text
    assert "".join(text.splitlines(True)[2:]) in (home / "report.md").read_text()
    assert 'id="checklist"' in (home / "report.html").read_text()


def test_the_checklist_is_answered_from_the_run(home):
    found = answers(home)
    metrics = pd.read_csv(home / "metrics.csv", dtype=str)
    trained = metrics[metrics["checkpoint"] == "last"]
    counts = found["The exact number of training and evaluation runs"]
    assert (
        f"{trained['train_key'].nunique()} trainings (seeds: 0), {trained['key'].nunique()} evaluations"
        in counts
    )
    assert "2 jobs with baselines" in counts
    splits = found["The details of train / validation / test splits"]
    assert "shapes-fold0: 15 training and 5 test classes" in splits
    assert "test episodes for each fold and seed, protocol bam. Validation during training: none." in splits
    excluded = next(answer for item, answer in found.items() if item.startswith("An explanation of any data"))
    assert "class 2 (gear): excluded: too few test images (1)." in excluded
    spread = next(answer for item, answer in found.items() if item.startswith("A description of results"))
    assert "bootstrap with" in spread and "by a t interval (not here: fewer than two seeds)" in spread
    assert "python 3.11.9; torch 2.13.0" in found["A description of the computing infrastructure used"]
    assert "commit: git c0ffee0." in found["Training code"]


def test_costs_are_known_only_if_every_job_measured_them(home):
    item = "The average runtime for each result, or estimated energy cost"
    assert "train 42 s" in answers(home)[item] and "Energy: not known to the run." in answers(home)[item]
    assert "Energy: 0.750 kWh." in answers(home, cpu_kwh=0.5, gpu_kwh=0.25)[item]
    assert "GPU hours: 1.50." in answers(home, gpu_hours=1.5)[item]
    assert "GPU hours: not known to the run." in answers(home, gpu_hours=np.nan)[item]


@pytest.mark.parametrize(
    ("source", "inputs", "said"),
    [
        (GENERATED, {}, "generated by the pipeline"),
        ("voc", {"fetched": "0123456789ab"}, "the official archives"),
        ("voc", {}, "link: not known to the run"),
    ],
)
def test_the_checklist_says_where_data_come_from(source, inputs, said):
    job = SimpleNamespace(label="animals", inputs=inputs, data_set={"source": source, "digest": "d1d1"})
    text = checklist._origin(job)
    assert text.startswith("animals: ") and said in text and text.endswith("digest d1d1.")
