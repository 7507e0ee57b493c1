"""The documentation has the sections that the code cites."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest
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


def test_text_of_the_pages_is_wrapped():
    """Written pages have lines of at most 120 characters, but for tables and code."""
    pages = [path for path in ROOT.glob("docs/*.md") if path.name not in ("params.md", "bad-inputs.md")]
    assert len(pages) > 10
    for path in pages:
        text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        written = [line for line in text.splitlines() if not line.startswith(("|", "    "))]
        assert [line for line in written if len(line) > 120] == [], path.name


RECORDED = ROOT / "docs/recorded"  # files of finished reports and benchmarks
LABELS = {
    "i2r": "I2R",
    "i2r-ordered": "I2R, ordered prior (ours)",
    "i2r-no-pmgm": "I2R without PMGM",
    "i2r-no-dicm": "I2R without DICM",
    "bam": "BAM",
    "prior-ordered@i2r": "best baseline without training (ordered prior at a threshold)",
    "prior-bam@i2r": "prior of BAM at a threshold",
    "prototype@i2r": "prototype matching, no training",
    "foreground@i2r": "everything foreground",
}


def page(name: str) -> str:
    return re.sub(r"\s+", " ", (ROOT / name).read_text(encoding="utf-8"))


def bracket(row, name: str, sign: str = "", digits: int = 1) -> str:
    value, low, high = (row[f"{name}{end}"] for end in ("", " low", " high"))
    return f"{value:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def assert_cams_are_told(folder: Path, text: str, words: dict[str, str]) -> None:
    """That the text has the scores of Table 6, each after these words for its method."""
    cams = pd.read_csv(folder / "table6.csv").set_index("method")
    assert set(words) == set(cams.index)
    for id, before in words.items():
        assert f"{before} {bracket(cams.loc[id], 'mean')}" in text


@pytest.mark.parametrize(("name", "most"), [("README.md", 5), ("docs/results.md", 7)])
def test_scores_in_the_docs_are_those_of_three_seeds(name: str, most: int):
    table = pd.read_csv(RECORDED / "shapes-paper/table.csv").set_index("id")
    baselines = table[table["training"] == "none"]["1-shot mean"]
    assert baselines.idxmax() == "prior-ordered@i2r"
    found = 0
    for id, row in table.iterrows():
        folds = " | ".join(f"{row[f'1-shot fold-{fold}']:.1f}" for fold in range(4))
        ends = [row[f"1-shot mean seeds {end}"] for end in ("low", "high")]
        seeds = "-" if pd.isna(ends[0]) else f"[{ends[0]:.1f}, {ends[1]:.1f}]"
        found += f"| {LABELS.get(id)} | {folds} | {bracket(row, '1-shot mean')} | {seeds} |" in page(name)
    assert found == most


def test_claims_in_the_docs_are_those_of_three_seeds():
    claims = pd.read_csv(RECORDED / "shapes-paper/claims.csv").dropna(subset=["difference"])
    told = claims[claims["unit"] == "points of mIoU"]
    assert len(told) == 8 and (told["verdict"] == "no difference larger than 1").sum() == 3
    for _, row in told.iterrows():
        claim = row["claim"].replace("I²R", "I2R").removesuffix(" (ResNet-50, 1-shot)")
        ends = f"[{row['seeds low']:.1f}, {row['seeds high']:.1f}]"
        images = f"{row['difference']:+.1f} [{row['images low']:+.1f}, {row['images high']:+.1f}]"
        line = f"| {claim} | {row['paper']:+.2f} | {images} | {ends} | {row['verdict']} |"
        assert line in page("docs/results.md")
        if row["ours"] == "i2r" and "CyCTR" not in claim:
            assert re.search(f"{re.escape(images)}( over images)?, {re.escape(ends)}", page("README.md"))
    assert "PMGM's prior and BAM's do not differ by more than a tenth" in page("docs/results.md")
    bce = claims[claims["claim"].str.contains("lower cross-entropy than BAM's")]
    assert bce["verdict"].str.startswith("no difference").all()


def test_what_every_table_found_in_the_docs_is_recorded():
    text, folder = page("docs/results.md"), RECORDED / "shapes-paper/paper"
    claims = pd.read_csv(folder / "claims.csv").dropna(subset=["images low"])
    claims = claims[
        ~claims["target"].isin(["table1", "table3", "table4"]) & ~claims["claim"].duplicated(keep=False)
    ]
    assert len(claims) == 9 and claims["verdict"].str.startswith("undecided").all()
    for _, row in claims.iterrows():
        paper = "-" if pd.isna(row["paper"]) else f"{row['paper']:+.2f}"
        ours = f"{row['difference']:+.1f} [{row['images low']:+.1f}, {row['images high']:+.1f}]"
        seeds = "-" if pd.isna(row["seeds low"]) else f"[{row['seeds low']:.1f}, {row['seeds high']:.1f}]"
        claim = row["claim"].replace("I²R", "I2R")
        assert f"| {claim} | {paper} | {ours} | {seeds} | {row['verdict']} |" in text
    shots = pd.read_csv(folder / "table.csv").query("target == 'table2'").set_index("id")
    for id, label in (("i2r", "I2R"), ("bam", "BAM"), ("prior-bam@i2r", "BAM's prior at a threshold")):
        assert f"{label} {bracket(shots.loc[id], '5-shot mean')}" in text
        if "@" not in id:
            assert (
                "[{:.1f}, {:.1f}]".format(*shots.loc[id, ["5-shot mean seeds low", "5-shot mean seeds high"]])
                in text
            )
    assert shots["5-shot mean"].drop(["i2r", "bam"]).idxmax() == "prior-bam@i2r"
    cams = {
        "i2r": "XGradCAM has",
        "i2r-hirescam": "HiResCAM",
        "i2r-gradcam": ", GradCAM",
        "i2r-bagcam": "BagCAM",
        "i2r-gradcam-plus-plus": "GradCAM++",
    }
    assert_cams_are_told(folder, text, cams)
    ratios = pd.read_csv(folder / "table5.csv").set_index(["method", "block"])["mean"]
    assert "would mask {:.2f} and {:.2f} % of the cells".format(*ratios["i2r"]) in text
    assert "CyCTR {:.1f} and {:.1f} %".format(*ratios[ratios.index.levels[0].drop("i2r")[0]]) in text
    thresholds = pd.read_csv(folder / "figure5.csv").set_index("method")["mean"]
    assert thresholds.idxmax() == "i2r-delta-90"
    assert f"{thresholds.min():.1f} to {thresholds.max():.1f}; 0.9 is best, and from 0.3 on" in text
    assert thresholds[[f"i2r-delta-{number}" for number in range(30, 100, 10)]].is_monotonic_increasing
    assert f"The adaptive one has {thresholds['i2r-delta-adaptive']:.1f}" in text
    across = pd.read_csv(folder / "table.csv").query("target == 'across'").set_index("id")
    for id, label in (("i2r-across", "I2R"), ("bam-across", "BAM")):
        assert f"{bracket(across.loc[id], '1-shot mean')} ({label})" in text
    cam, prior = pd.read_csv(folder / "claims.csv").query("target == 'across'").to_dict("records")
    alone = pd.read_csv(folder.parent / "own_reports.csv")
    assert alone["target"].tolist() == ["figure5", "across", "across"]
    assert (alone["verdict"] == "supported").all()
    supported = pd.read_csv(folder / "claims.csv").query("verdict == 'supported'")
    assert supported["claim"].tolist() == [cam["claim"]] and "another kind" in page("README.md")
    overlap = f"by {cam['difference']:.1f} points of IoU ([{cam['seeds low']:.1f}, {cam['seeds high']:.1f}]"
    assert overlap in text and f"loses {prior['difference']:.1f} points of average precision" in text


def test_optimism_in_the_docs_is_recorded():
    rows = pd.read_csv(RECORDED / "shapes-paper/checkpoints.csv").set_index("checkpoint")
    best = "best of all on the test episodes (optimistic)"
    last, (chosen, lead) = rows.loc["last"], (row for _, row in rows.loc[best].iterrows())

    def told(row, sign=""):
        return f"{row['value']:{sign}.1f} [{row['images low']:{sign}.1f}, {row['images high']:{sign}.1f}]"

    seeds = f"[{lead['seeds low']:.1f}, {lead['seeds high']:.1f}]"
    ours = f"would be {told(chosen)} instead of {told(last)}: {told(lead, '+')}"
    assert f"{ours} over images, {seeds} over training" in page("docs/results.md")
    assert f"would be worth {told(lead, '+')} points for I2R" in page("README.md")
    assert f"after 90 % of the steps they have {told(rows.loc['after 90 % of the steps'])}" in page(
        "docs/results.md"
    )
    steps = rows["value"][rows.index.str.startswith("after")]
    assert steps.idxmax() == "after 100 % of the steps"
    table = pd.read_csv(RECORDED / "shapes-paper/paper/table.csv").query("target == 'table2'").set_index("id")
    assert last["value"] == table.at["i2r", "1-shot mean"]


def test_decoders_in_the_docs_are_recorded():
    grid = pd.read_csv(RECORDED / "shapes-paper/paper/table-s1.csv").set_index("method")
    for cross in range(6):
        names = [f"i2r-{decoders}-{cross}" for decoders in (2, 3, 4, 5)]
        cells = [f"{grid.at[name, 'mean']:.1f}" if name in grid.index else "-" for name in names]
        assert f"| {cross} | {' | '.join(cells)} |" in page("docs/results.md")
    text = page("docs/results.md")
    assert f"their scores lie between {grid['mean'].min():.1f} and {grid['mean'].max():.1f}" in text
    ours, best = grid.at["i2r-5-4", "mean"], grid.at["i2r-4-0", "mean"]
    assert best == grid["mean"].max() and f"has {ours:.1f} here, four without any {best:.1f}" in text


def test_controls_and_kinds_in_the_docs_are_recorded():
    text = page("docs/results.md")
    controls = pd.read_csv(RECORDED / "shapes-paper/controls.csv").set_index(["id", "kind", "measure"])
    lost, low, high = controls.loc[("i2r", "present", "lost"), ["value", "low", "high"]]
    assert f"loses {lost:.0f} % [{low:.0f}, {high:.0f}] of its mIoU" in text
    assert f"loses {lost:.0f} % [{low:.0f}, {high:.0f}] of its mIoU" in page("README.md")
    assert f"finds that class with {controls.at[('i2r', 'present', 'shown'), 'value']:.1f}" in text
    assert f"as its own support it has {controls.at[('i2r', 'itself', 'miou'), 'value']:.1f}" in text
    for folder, target, kinds in (
        ("shapes-paper", "table1", {"look-alike": ("yes", "no"), "cover": ("yes", "no")}),
        ("voc-small-gpu", "parts", {"size": ("large", "small")}),
    ):
        strata = pd.read_csv(RECORDED / folder / "strata.csv").query(f"target == '{target}' and id == 'i2r'")
        minus = "bam" if folder == "voc-small-gpu" else None
        strata = strata[strata["minus"] == minus] if minus else strata[strata["minus"].isna()]
        for _, row in strata.set_index("kind").loc[list(kinds)].iterrows():
            sign = "+" if minus else ""
            ends = ", ".join(f"{row[end]:{sign}.1f}" for end in ("low", "high"))
            if row["stratum"] != "change":
                assert f"{row['value']:{sign}.1f} [{ends}]" in text


def test_seeds_and_priors_in_the_docs_are_recorded():
    text = page("docs/results.md")
    metrics = pd.read_csv(RECORDED / "shapes-paper/metrics.csv").dropna(subset=["seed"])
    means = metrics.groupby(["method", "seed"])["miou"].mean().unstack()
    assert "I2R has {:.1f}, {:.1f} and {:.1f} with".format(*means.loc["i2r"]) in text
    fold = metrics.query("method == 'i2r' and fold == 3").groupby("seed")["miou"].mean()
    assert "and {:.1f}, {:.1f} and {:.1f} in fold 3".format(*fold) in text
    assert (means.idxmin(axis=1) == 0).all(), "the first seed is the worst for every network"
    priors = pd.read_csv(RECORDED / "shapes-paper/priors.csv").set_index(["measure", "prior"])
    behind, high, low = -priors.loc[("ap", "pmgm"), ["difference", "difference low", "difference high"]]
    assert f"is {behind:.1f} points [{low:.1f}, {high:.1f}] below BAM's" in text


def test_rows_of_table_3_in_the_docs_are_those_of_three_seeds():
    rows = pd.read_csv(RECORDED / "shapes-paper/ablation.csv")
    text = page("docs/results.md")
    assert len(rows) == 7 and rows["mean"].max() - rows["mean"].min() < 1
    for number, (_, row) in enumerate(rows.iterrows(), 1):
        folds = " | ".join(f"{row[f'fold-{fold}']:.1f}" for fold in range(4))
        seeds = f"[{row['mean seeds low']:.1f}, {row['mean seeds high']:.1f}]"
        line = re.escape(f"| {folds} | {bracket(row, 'mean')} | {seeds} |")
        assert re.search(rf"\| {number}: [^|]+ {line}", text)
    assert f"decoder alone, with BAM's prior, has {bracket(rows.iloc[0], 'mean')}" in page("README.md")


def test_what_bam_misses_is_recorded():
    marked, text = (
        pd.read_csv(RECORDED / "shapes-paper/marked.csv").set_index(["method", "fold"]),
        page("docs/results.md"),
    )
    bam, i2r = marked.loc["bam"].round(), marked.loc["i2r"].round()
    ends = bam["precision"].drop(3).min(), bam["precision"].drop(3).max()
    assert (
        "of what it marks {:.0f} % is right there, in the other folds {:.0f} to {:.0f} %".format(
            bam["precision"][3], *ends
        )
        in text
    )
    ends = bam["recall"].drop(3).min(), bam["recall"].drop(3).max()
    assert (
        "it marks {:.0f} % of the object, in the other folds {:.0f} to {:.0f} %".format(
            bam["recall"][3], *ends
        )
        in text
    )
    assert (
        "in {:.0f} % of the episodes nearly nothing (I2R: {:.0f} %)".format(
            bam["nearly_nothing"][3], i2r["nearly_nothing"][3]
        )
        in text
    )


def test_learning_rates_in_the_docs_are_recorded():
    folder, text = RECORDED / "shapes-paper", page("docs/results.md")
    held = pd.read_csv(folder / "held_out.csv")
    columns = ["i2r", "i2r-ordered", "i2r-no-pmgm", "i2r-no-dicm", "i2r-no-support", "i2r-decoder", "bam"]
    means = held.groupby(["lr", "method"])["miou"].mean().unstack()[columns]
    for rate, row in means.dropna(how="all").iterrows():
        cells = " | ".join("-" if pd.isna(value) else f"{value:.1f}" for value in row)
        assert f"| {rate:g} | {cells} |" in text
    shapes = load(ROOT / "workflow/presets/shapes.yaml")
    for method in columns:
        assert means[method].idxmax() == shapes.methods[method].params.train.lr
    searched = load(ROOT / "workflow/presets/shapes-rates.yaml")
    rates = {
        (name.rpartition("-")[0], searched.methods[name].params.train.lr)
        for name in searched.values.targets["rates"].methods
    }
    assert rates == {(row.method.removeprefix("i2r-"), row.lr) for row in held.itertuples()}
    fast, slow = (means["i2r-no-pmgm"][rate] - means["i2r"][rate] for rate in (0.006, 0.0015))
    assert f"PMGM costs {fast:.1f} points with 0.006, and {slow:.1f} with 0.0015" in text


def test_photographs_in_the_docs_are_recorded():
    table = pd.read_csv(RECORDED / "voc-small-gpu/ablation.csv")
    labels = LABELS | {"bam": "BAM on I2R's backbone"}
    for _, row in table.iterrows():
        folds = " | ".join(f"{row[f'fold-{fold}']:.1f}" for fold in range(4))
        gained = "" if pd.isna(row["difference"]) else bracket(row, "difference", "+")
        line = f"| {labels[row['method']]} | {folds} | {bracket(row, 'mean')} | {gained} |"
        assert re.sub(r"\s+", " ", line) in page("docs/results.md")
        if row["method"] in ("i2r", "bam"):
            assert bracket(row, "mean") in page("README.md")
    ious = pd.read_csv(RECORDED / "voc-small-gpu/per_class.csv").query("method == 'i2r'")
    assert set(ious.nsmallest(4, "iou")["name"]) == {"diningtable", "chair", "pottedplant", "bicycle"}


def test_priors_of_photographs_in_the_docs_are_recorded():
    text = page("docs/results.md")
    priors = pd.read_csv(RECORDED / "voc-small/priors.csv").set_index(["measure", "prior"])
    labels = {"bam": "BAM's", "pmgm": "PMGM (I2R)", "ordered": "PMGM ordered (ours)", "mean": "one prototype"}
    for prior, label in (labels | {"constant": "constant"}).items():
        ap, gained = priors.loc[("ap", prior)], ""
        if prior != "bam":
            gained = bracket(ap, "difference", "+")
        if prior in ("pmgm", "mean"):
            assert gained.removesuffix("]") in page("README.md")
        means = [priors.at[(measure, prior), "mean"] for measure in ("bce", "bce_calibrated", "iou_best")]
        line = f"| {label} | {means[0]:.3f} | {means[1]:.3f} | {ap['mean']:.1f} [{ap['low']:.1f}, {ap['high']:.1f}]"
        assert re.sub(r"\s+", " ", f"{line} | {gained} | {means[2]:.1f} |") in text
    folds = priors.loc["ap"][[f"fold-{fold}" for fold in range(4)]]
    assert (folds.loc["mean"] > folds.loc["pmgm"]).all() and (folds.loc["pmgm"] > folds.loc["bam"]).all()


def test_what_makes_a_network_use_its_supports_is_recorded():
    controls = pd.read_csv(RECORDED / "voc-small-support/controls.csv", dtype={"fold": str})
    cells, text = controls.set_index(["method", "fold", "kind"]), page("docs/results.md")

    def told(method, kind, digits=1, sign=""):
        row = cells.loc[(method, "mean", kind), ["value", "low", "high"]]
        value, low, high = (f"{number:{sign}.{digits}f}" for number in row)
        return f"{value} [{low}, {high}]"

    labels = {
        "i2r": "as it is",
        "i2r-pairs": "pairs: one query, two classes",
        "i2r-paste": "pasted objects",
        "i2r-balanced": "balanced classes",
        "i2r-balanced-pairs": "balanced pairs",
    }
    for method, label in labels.items():
        folds = " | ".join(f"{cells.at[(method, fold, 'right'), 'value']:.1f}" for fold in "12")
        line = f"| {label} | {folds} | {told(method, 'right')} | {told(method, 'right less shuffled')} | "
        assert line + f"{told(method, 'present', 0)} |" in text
        if method != "i2r":
            assert told(method, "right less i2r", sign="+") in text


def test_masks_and_thresholds_on_photographs_are_recorded():
    folder, text = RECORDED / "voc-small-tables", " ".join(page("docs/results.md").split())
    ratios = pd.read_csv(folder / "table5.csv").set_index(["method", "block"])["mean"]
    assert (
        "would mask {:.2f} and {:.2f} % of the cells of the two blocks, CyCTR".format(*ratios["i2r"]) in text
    )
    assert "CyCTR {:.1f} and {:.1f} %".format(*ratios["i2r-cyctr"]) in text
    thresholds = pd.read_csv(folder / "figure5.csv").set_index("method")
    assert f"I2R has {bracket(thresholds.loc['i2r-delta-70'], 'mean')} there" in text
    fixed = thresholds["mean"].drop("i2r-delta-adaptive")
    said = f"moves by {fixed.max() - fixed.min():.1f} points, from {fixed.min():.1f} to {fixed.max():.1f}"
    adaptive = thresholds.loc["i2r-delta-adaptive"]
    assert f"{said}, and the adaptive threshold ({adaptive['mean']:.1f}) differs from 0.7 by " in text
    assert f"differs from 0.7 by {bracket(adaptive, 'difference', '+')}" in text
    cams = {
        "i2r": "the lowest, with",
        "i2r-gradcam-plus-plus": "GradCAM++ has",
        "i2r-bagcam": "BagCAM",
        "i2r-gradcam": "GradCAM",
        "i2r-hirescam": "HiResCAM",
    }
    assert_cams_are_told(folder, text, cams)
    assert pd.read_csv(folder / "table6.csv").set_index("method")["mean"].idxmin() == "i2r"


def test_controls_of_photographs_in_the_docs_are_recorded():
    text = page("docs/results.md")
    controls = pd.read_csv(RECORDED / "voc-small/controls.csv").set_index(["id", "kind", "measure"])
    for kind, measure in (
        ("right", "miou"),
        ("itself", "miou"),
        ("shuffled", "miou"),
        ("present", "lost"),
        ("absent", "marked"),
    ):
        rows = [controls.loc[id, kind, measure] for id in ("i2r", "bam")]
        told = (f"{row['value']:.1f} [{row['low']:.1f}, {row['high']:.1f}]" for row in rows)
        assert f"| {' | '.join(told)} |" in text
    objects = controls.loc["oracle", "objects", "miou"]
    assert f"would give {objects['value']:.1f} [{objects['low']:.1f}, {objects['high']:.1f}]" in text
    assert controls.loc["i2r", "present", "lost"]["episodes"] == 50


def test_times_on_a_gpu_in_the_docs_are_recorded():
    text = page("docs/speed.md")
    for name in ("first", "second"):
        for _, row in pd.read_csv(RECORDED / f"gpu/{name}.csv").iterrows():
            numbers = [1000 * row["seconds"], 1000 * row["kernels_seconds"], row["memory_gb"], row["hours"]]
            told = " | ".join(f"{number:.1f}" for number in numbers)
            assert f"| {told} |" in text or (row["way"].startswith("BAM, bf16") and name == "first")
