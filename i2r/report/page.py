"""The report step: everything that people open in results/<experiment>/, from the files of finished jobs."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from markdown_it import MarkdownIt
from PIL import Image

from i2r.files import write_json, write_text
from i2r.pipeline.jobs import Job
from i2r.report import figures, pictures, results, studies, summary, tables
from i2r.report.results import Finished, section

CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 78rem; margin: 2rem auto; padding: 0 1.5rem }
table { border-collapse: collapse; font-size: 13px; margin: 1rem 0; display: block; overflow-x: auto }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; white-space: nowrap; vertical-align: bottom }
thead th { border-bottom: 2px solid #888 }
td { font-variant-numeric: tabular-nums } img { max-width: 100%; margin: .6rem 0 } code { font-size: 90% }
h1 { font-size: 1.7rem } h2 { margin-top: 2.2rem; border-bottom: 1px solid #ccc } figcaption { color: #555 }
"""


def run(job: Job) -> dict[str, Any]:
    """Write metrics, tables, figures and the first page to `job.out`; returns mean mIoU by method (percent).

    job.inputs: {"<step>/<name>": folder of a finished job}. What is missing is named with a reason.
    """
    jobs, gaps = results.read_jobs(job.inputs.values())
    params, out = job.params, job.out
    gaps += results.missing(jobs, params)
    run, ablate = params["run"], params["ablate"]
    shots, folds = run["shots"], run["folds"]

    scored, classes = results.evaluations(jobs), results.per_class(jobs)
    scored.to_csv(out / "metrics.csv", index=False, float_format="%.4f")
    classes.to_csv(out / "per_class.csv", index=False, float_format="%.4f")
    curves, priors, episodes = results.curves(jobs), results.priors(jobs), results.episodes(jobs)
    curves.to_csv(out / "curves.csv", index=False, float_format="%.6g")

    samples = results.resampled_means(episodes, params["report"]["bootstrap"])
    notes = tables.differences(jobs)
    main = tables.main_table(scored, samples, run, comparable=not notes)
    write_frame(main, out / "table.csv")
    main_text = tables.main_markdown(main, scored, run, notes)
    write_text(out / "table.md", main_text)
    numbers = tables.nested(scored, samples, run)
    write_json(out / "metrics.json", numbers)

    # the ablation compares what was trained on its folds and seeds, and nothing else
    known = {finished.key: finished for finished in jobs}
    options = {j.args["method"]: section(j, "method", known) for j in jobs if j.step == "evaluate"}
    its_seeds = scored["seed"].isin(ablate["seeds"]) | scored["seed"].isna()
    its_samples = samples
    if set(run["seeds"]) != set(ablate["seeds"]) and len(episodes):
        own = episodes[episodes["seed"].isin(ablate["seeds"])]
        its_samples = results.resampled_means(own, params["report"]["bootstrap"])
    ablations = {
        shot: studies.ablation_table(jobs, scored[its_seeds], its_samples, params, shot, comparable=not notes)
        for shot in shots
    }
    write_frame(by_shot(ablations), out / "ablation.csv")
    ablation_text = "\n".join(
        studies.ablation_markdown(table, ablate["folds"], shot, notes) for shot, table in ablations.items()
    )
    ablation_text += studies.mask_ratios(jobs)
    write_text(out / "ablation.md", ablation_text)

    quality = {shot: studies.prior_table(priors, shot, folds, comparable=not notes) for shot in shots}
    write_frame(by_shot(quality), out / "priors.csv")
    prior_text = "\n".join(studies.prior_markdown(t, folds, shot, notes) for shot, t in quality.items())
    prior_text += studies.cam_markdown(jobs)
    write_text(out / "priors.md", prior_text)

    sentences, directions = [], []
    for shot in shots:
        sentences += summary.verdicts(scored, samples, run, options, params["report"]["margin"], shot)
        sentences += summary.prior_verdicts(quality[shot], shot)
        over = tables.mean_folds(scored, shot, ablate["folds"])
        directions += summary.claims(ablations[shot], its_samples, shot, over)
    header = ["Adding", "compared", "paper", "here [95 %]", "verdict"]
    claims = tables.markdown(header, directions, left=2) if directions else ""
    note = (
        "\nmIoU on the ablation's folds; the paper's are means of four folds of PASCAL-5i with ResNet-50. The interval "
        "is that of the episodes alone.\n"
    )
    if len(ablate["seeds"]) == 1:
        note += (
            "\nOne training seed: on the embedded data set, two runs that differed in rounding alone (another "
            "processor) had such differences four points apart, of either sign. A direction is a hint, no finding.\n"
        )
    sections = {
        "What the numbers say": summary.bullets(
            sentences, "No evaluation has finished, so there is no verdict."
        ),
        "Do the paper's components help here?": claims + note if claims else "",
        "Beside the paper": tables.paper_note(notes),
        "Left out": summary.bullets(summary.excluded_classes(classes), "No class had too few test images."),
        "Missing": summary.bullets(gaps, "Nothing: every evaluation that the params ask for is here."),
    }
    origin = {
        "What it took": summary.cost_table(jobs),
        "Environment": summary.environment_table(jobs),
        "Where each number comes from": summary.key_table(jobs),
    }
    files = (
        "With pictures: [summary.html](summary.html). Tables: [mIoU by fold](table.md), [components](ablation.md), "
        "[priors](priors.md), [every evaluation](metrics.csv), [every class](per_class.csv).\n"
    )
    title = f"{params['experiment']}: I2R, BAM and baselines without training"
    write_text(out / "summary.md", summary.page(title, sections | {"Files": files} | origin))

    drawn = draw(jobs, scored, samples, curves, quality, params, out / "figures")
    body = [summary.page(title, sections), demote(main_text), *images(drawn, "miou")]
    body += [demote(prior_text), *images(drawn, "priors"), demote(ablation_text), *images(drawn, "ablation")]
    body += ["## Training\n", *images(drawn, "curves"), "## Episodes\n", *images(drawn, "compare")]
    body += [*images(drawn, "episodes"), *(f"## {name}\n\n{text}" for name, text in origin.items())]
    write_text(out / "summary.html", as_html(title, "\n\n".join(body), out))
    return {
        f"{method}/{shot}/{value}": mean
        for method, by in numbers.items()
        for shot, values in by.items()
        for value, cells in values.items()
        if (mean := cells.get("mean")) is not None
    }


def by_shot(parts: dict[int, pd.DataFrame]) -> pd.DataFrame:
    """One table with a leading column shot."""
    return pd.concat([table.assign(shot=shot)[["shot", *table.columns]] for shot, table in parts.items()])


def write_frame(table: pd.DataFrame, path: Path) -> None:
    table.to_csv(path, index=False, float_format="%.4f")


# --- figures ---------------------------------------------------------------------------------------------


def draw(
    jobs: Sequence[Finished],
    scored: pd.DataFrame,
    samples: tables.Samples,
    curves: pd.DataFrame,
    quality: dict[int, pd.DataFrame],
    params: dict[str, Any],
    folder: Path,
) -> dict[str, str]:
    """Draw all figures; returns file name -> caption, in the order of the page."""
    run, ablate = params["run"], params["ablate"]
    trained = set(scored.loc[scored["checkpoint"] != "none", "method"])
    captions: dict[str, str] = {}

    def path(name: str, caption: str) -> Path:
        captions[f"{name}.png"] = caption
        return folder / f"{name}.png"

    for shot in run["shots"]:
        suffix = "" if shot == 1 else f"-{shot}shot"
        table = tables.fold_table(scored, samples, shot, run["folds"])
        methods = [m for m in tables.method_order(scored, run["methods"]) if m in table.index]
        if methods:
            target = path(
                f"miou{suffix}", f"mIoU by fold, {shot}-shot: trained methods in colour, baselines grey."
            )
            panels = tables.panels(table.loc[methods], samples, shot, run["folds"])
            figures.score_bars(panels, methods, trained, f"mIoU by fold, {shot}-shot", target)
        table = tables.fold_table(scored, samples, shot, ablate["folds"])
        methods = [m for m in dict.fromkeys([*run["methods"], *ablate["methods"]]) if m in table.index]
        if ablate["methods"] and methods:
            target = path(f"ablation{suffix}", f"What each component brings, {shot}-shot.")
            panels = tables.panels(table.loc[methods], samples, shot, ablate["folds"])
            figures.score_bars(panels, methods, trained, f"Components, {shot}-shot", target)
        if len(quality[shot]):
            target = path(f"priors{suffix}", f"Quality of the prior maps, {shot}-shot.")
            figures.prior_dots(quality[shot], run["folds"], target)
    if len(curves):
        methods = list(dict.fromkeys([*run["methods"], *ablate["methods"]]))
        figures.loss_curves(curves, methods, path("curves", "Training loss of every method."))

    for shot in run["shots"]:
        suffix = "" if shot == 1 else f"-{shot}shot"
        for fold in run["folds"]:
            kept, why = kept_pictures(jobs, params, shot, fold)
            target = path(f"compare{suffix}-fold{fold}", f"Fold {fold}: the same episodes under each method.")
            if len(kept) > 1:
                pictures.comparison_figure(kept, target)
            else:
                figures.gap("; ".join(sorted(set(why.values()))) or "one method alone has pictures", target)
            for method in run["methods"]:
                caption = f"{tables.label(method)}, fold {fold}: an episode of each class as far as they go."
                target = path(f"episodes-{method}{suffix}-fold{fold}", caption)
                if method in kept:
                    pictures.episode_figure(kept[method], target)
                else:
                    figures.gap(why[method], target)
    return captions


def kept_pictures(
    jobs: Sequence[Finished], params: dict[str, Any], shot: int, fold: int
) -> tuple[dict[str, Path], dict[str, str]]:
    """pictures.npz of each method on a fold (first seeds), and for methods without one the reason."""
    first = {"shot": shot, "fold": fold, "seed": params["run"]["seeds"][0]}
    first["eval_seed"] = params["evaluate"]["seeds"][0]
    kept, why = {}, {}
    for method in params["run"]["methods"]:
        args = first | {"method": method}
        found = next((j for j in jobs if j.step == "evaluate" and j.args == args), None)
        if found is None:
            why[method] = f"{tables.label(method)} has not been evaluated on fold {fold}"
        elif reason := found.json("scores.json").get("why"):
            why[method] = f"fold {fold}: {reason}"
        else:
            kept[method] = found.folder / "pictures.npz"
    return kept, why


# --- the page with pictures ------------------------------------------------------------------------------


def demote(text: str) -> str:
    """The same Markdown one level of headings lower."""
    return re.sub(r"^#", "##", text, flags=re.MULTILINE)


def images(drawn: dict[str, str], start: str) -> list[str]:
    """Markdown of the figures whose name starts so."""
    return [
        f"![{caption}](figures/{name})\n\n*{caption}*"
        for name, caption in drawn.items()
        if name.startswith(start)
    ]


def as_html(title: str, text: str, folder: Path) -> str:
    """One HTML file that needs nothing beside it: figures below `folder` are written into it."""

    def embed(match: re.Match[str]) -> str:
        kind, content = "png", (folder / match[1]).read_bytes()
        if len(content) > 300_000:  # photographs
            buffer = io.BytesIO()
            Image.open(folder / match[1]).convert("RGB").save(buffer, "jpeg", quality=88)
            kind, content = "jpeg", buffer.getvalue()
        return f'src="data:image/{kind};base64,{base64.b64encode(content).decode()}"'

    body = MarkdownIt("commonmark").enable("table").render(text)
    body = re.sub(r'src="(figures/[^"]+)"', embed, body)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{CSS}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>\n{body}</body></html>\n'
