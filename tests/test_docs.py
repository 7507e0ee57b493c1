"""The documentation has the sections that the code cites."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pandas as pd
import yaml
from snakemake.cli import parse_args

from i2r.config.load import load

ROOT = Path(__file__).parents[1]
CITATION = re.compile(r"docs/method\.md((?:,? (?:and |to )?\d+(?:\.\d+)?)*)")


def test_cited_sections_of_the_method_exist():
    headings = re.findall(r"^##+ (\d+(?:\.\d+)?)\.? ", (ROOT / "docs/method.md").read_text(), re.MULTILINE)
    cited = 0
    for path in [*ROOT.glob("i2r/**/*.py"), *ROOT.glob("tests/*.py")]:
        for sections in CITATION.findall(path.read_text()):
            for number in re.findall(r"\d+(?:\.\d+)?", sections):
                assert number in headings, f"{path.relative_to(ROOT)}: docs/method.md has no section {number}"
                cited += 1
    assert cited > 30


def test_functions_named_by_the_paper_in_code_exist():
    text = (ROOT / "docs/paper-in-code.md").read_text(encoding="utf-8")
    shown, linked = re.findall(r"^::: (\S+)$", text, re.MULTILINE), re.findall(r"\]\[(i2r\.\S+)\]", text)
    assert set(linked) <= set(shown) and len(shown) > 25
    for name in shown:
        module = next(m for m in prefixes(name) if (ROOT / f"{m.replace('.', '/')}.py").is_file())
        found = import_module(module)
        for part in name.removeprefix(f"{module}.").split("."):
            found = getattr(found, part)
        assert found.__doc__, name


def prefixes(name: str) -> list[str]:
    """The names of the modules that could define `a.b.C.d`, longest first."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]


def test_commands_of_the_pages_are_understood_by_snakemake():
    """Files are params files, and words are targets, as Snakemake itself parses the command line."""
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"))]
    commands = [
        line for text in texts for line in re.findall(r"snakemake [^`#|\n]*--configfile [^`#|\n]+", text)
    ]
    found = [line for line in commands if ".yaml" in line]
    assert len(found) > 15
    for command in found:
        _, arguments = parse_args(shlex.split(command)[1:])
        (preset,) = arguments.configfile
        known = {*load(ROOT / preset).values.targets, "paper"}
        assert set(arguments.targets or ()) <= known, command


def test_every_page_is_in_the_contents_of_the_site():
    def pages(entries) -> list[str]:
        found = [value for entry in entries for value in entry.values()]
        return [page for value in found for page in (pages(value) if isinstance(value, list) else [value])]

    listed = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert sorted(listed) == sorted(path.name for path in ROOT.glob("docs/*.md"))


RECORDED = ROOT / "docs/recorded/shapes"  # tables of the report of `make run`
ROWS = {
    "I2R": "i2r",
    "I2R, ordered prior (ours)": "i2r-ordered",
    "BAM": "bam",
    "best baseline without training (ordered prior at a threshold)": "prior-ordered@i2r",
    "prototype matching, no training": "prototype@i2r",
    "everything foreground": "foreground@i2r",
}


def test_numbers_of_the_readme_are_those_of_recorded_files():
    text = re.sub(r"\s+", " ", (ROOT / "README.md").read_text())
    table = pd.read_csv(RECORDED / "table.csv").set_index("id")
    for label, id in ROWS.items():
        row = table.loc[id]
        folds = " | ".join(f"{row[f'1-shot fold-{fold}']:.1f}" for fold in range(4))
        mean, low, high = (row[f"1-shot mean{end}"] for end in ("", " low", " high"))
        assert f"| {label} | {folds} | {mean:.1f} [{low:.1f}, {high:.1f}] |" in text
    baselines = table[table["training"] == "none"]["1-shot mean"]
    assert baselines.idxmax() == "prior-ordered@i2r"
    for claim in claims():
        assert claim in text


def claims():
    """What the README says below the table."""
    ablation = pd.read_csv(RECORDED / "ablation.csv").set_index("method")
    controls = pd.read_csv(RECORDED / "controls.csv").set_index(["id", "kind", "measure"])
    priors = pd.read_csv(RECORDED / "priors.csv").set_index(["prior", "measure"])

    def difference(method):
        value, low, high = ablation.loc[method, ["difference", "difference low", "difference high"]]
        return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"

    def control(kind, measure):
        return f"{controls.at[('i2r', kind, measure), 'value']:.1f}"

    yield f"without PMGM {difference('i2r-no-pmgm')}"
    yield f"without DICM {difference('i2r-no-dicm')}"
    yield f"the decoder alone {difference('i2r-decoder')}"
    lost, low, high = controls.loc[("i2r", "present", "lost"), ["value", "low", "high"]]
    yield f"loses {lost:.0f} % [{low:.0f}, {high:.0f}] of its mIoU"
    yield f"finds that class with {control('present', 'shown')}"
    yield f"with the query as its own support {control('itself', 'miou')}"
    strata = pd.read_csv(RECORDED / "strata.csv").query("target == 'table1' and id == 'i2r' and minus.isna()")
    alike, others = (
        strata.set_index(["kind", "stratum"]).loc[("look-alike", name)] for name in ("yes", "no")
    )
    scores = [f"{row['value']:.1f} [{row['low']:.1f}, {row['high']:.1f}]" for row in (alike, others)]
    yield f"In {alike['episodes']:.0f} of the {alike['episodes'] + others['episodes']:.0f} queries"
    yield f"I2R has {scores[0]} there, and {scores[1]} elsewhere"
    for name in ("pmgm", "bam", "constant"):
        yield f"{priors.at[(name, 'bce'), 'mean']:.2f} ({priors.at[(name, 'bce_calibrated'), 'mean']:.3f})"
