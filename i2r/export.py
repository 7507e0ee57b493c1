"""`i2r export`: a finished experiment as an RO-Crate (profile Workflow Run Crate), in one zip file.

The crate has the workflow, the params, the manifest of every job (its spec, and the sha256 of every product) and the
report. Data and weights stay out: the manifests say which they were.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rocrate.model.contextentity import ContextEntity
from rocrate.rocrate import ROCrate

from i2r.config.load import extended
from i2r.files import replacing
from i2r.pipeline.plan import REPORT, Plan
from i2r.pipeline.spec import RESULTS, JobError, Spec
from i2r.pipeline.store import MANIFEST, Located, manifest
from i2r.progress import duration

PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": ("Workflow RO-Crate", "1.0"),
}
LICENSE = "https://spdx.org/licenses/MIT"
WORKFLOW = Path("workflow/Snakefile")
ENVIRONMENT = ("envs/requirements.in", "envs/constraints.txt", "envs/i2r.yaml")
FORMATS = {
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".md": "text/markdown",
    ".png": "image/png",
    ".txt": "text/plain",
    ".yaml": "application/yaml",
}


def export(plan: Plan, params_files: Sequence[Path], to: Path, results: Path = RESULTS) -> Path:
    """Write the crate of an experiment to a zip file; returns its path. Files are read from the clone's folder.

    Args:
        params_files: from which the plan was made; those that they extend are added.

    Raises:
        JobError: a job of the experiment has not finished, or `to` is not a zip file.
    """
    if to.suffix != ".zip":
        raise JobError(f"{to}: the crate is a zip file; give it a name that ends in .zip")
    jobs = [spec for spec in plan.of("all") if spec.step != "track"]
    located = Located(plan, results)
    missing = [spec.title for spec in jobs if located.state(spec) != "done"]
    if missing:
        raise JobError(
            f"{plan.experiment}: {len(missing)} of {len(jobs)} jobs have not finished, the first is {missing[0]}; "
            "`snakemake` makes them"
        )
    made = {spec.key: manifest(located.folder(spec.key)) for spec in jobs}
    crate = described(plan, made.values())
    workflow = add_workflow(crate)
    files = dict.fromkeys(path for file in params_files for path in (*extended(file), file))
    given = [add_file(crate, path, place(path)) for path in files]
    given += [add_file(crate, Path(path), path) for path in ENVIRONMENT]
    records = [
        add_file(
            crate, located.folder(spec.key) / MANIFEST, f"manifests/{spec.step}/{spec.key}.json", spec.title
        )
        for spec in jobs
    ]
    report = add_report(crate, located.folder(report_of(jobs).key))
    add_run(crate, plan, workflow, given, [*report, *records], list(made.values()))
    with replacing(to) as temporary:
        crate.write_zip(temporary)
    return to


def place(path: Path) -> str:
    """Where a params file stands in the crate: as in the clone, or in params/ if it is outside."""
    inside = path.resolve().is_relative_to(Path.cwd())
    return path.resolve().relative_to(Path.cwd()).as_posix() if inside else f"params/{path.name}"


def report_of(jobs: Iterable[Spec]) -> Spec:
    """The report of all targets."""
    return next(spec for spec in jobs if spec.step == REPORT)


def described(plan: Plan, made: Iterable[Mapping[str, Any]]) -> ROCrate:
    """A crate with the description of the experiment, its authors, licence and profiles."""
    crate = ROCrate(version="1.1")
    about = citation()
    paper = about["references"][0]["title"]
    crate.name = f"{plan.experiment}: few-shot segmentation, reproduced with i2r"
    crate.description = (
        f"Results of the experiment {plan.experiment} of a reproduction of the paper {paper}. Pictures in the report "
        "show images of its data sets, whose licences are their publishers'."
    )
    crate.datePublished = max(values["times"]["ended"] for values in made)
    crate.license = crate.add(
        ContextEntity(crate, LICENSE, {"@type": "CreativeWork", "name": "MIT License", "identifier": LICENSE})
    )
    names = [author["name"] for author in about["authors"]]
    authors = [
        ContextEntity(crate, f"#{name.replace(' ', '-')}", {"@type": "Organization", "name": name})
        for name in names
    ]
    crate.root_dataset["author"] = [crate.add(author) for author in authors]
    crate.root_dataset["conformsTo"] = [
        crate.add(ContextEntity(crate, url, {"@type": "CreativeWork", "name": name, "version": version}))
        for url, (name, version) in PROFILES.items()
    ]
    return crate


def citation() -> dict[str, Any]:
    return yaml.safe_load(Path("CITATION.cff").read_text(encoding="utf-8"))


def add_file(crate: ROCrate, path: Path, at: str, name: str | None = None) -> Any:
    properties = {"name": name or at, "encodingFormat": FORMATS.get(path.suffix, "text/plain")}
    return crate.add_file(path, at, properties=properties, record_size=True)


def add_workflow(crate: ROCrate) -> Any:
    """The Snakefile as the crate's main entity, with the rules that it includes."""
    from snakemake import __version__

    workflow = crate.add_workflow(
        WORKFLOW,
        str(WORKFLOW),
        main=True,
        lang="snakemake",
        lang_version=__version__,
        properties={"name": "i2r"},
    )
    workflow["license"], workflow["author"] = crate.license, crate.root_dataset["author"]
    workflow["version"] = citation()["version"]
    rules = sorted((WORKFLOW.parent / "rules").glob("*.smk"))
    workflow["hasPart"] = [add_file(crate, path, str(path)) for path in rules]
    add_file(crate, Path("README.md"), "README.md")["about"] = crate.root_dataset
    return workflow


def add_report(crate: ROCrate, folder: Path) -> list[Any]:
    """The files of the report, without its own manifest."""
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST and path.name[0] != "."
    )
    return [add_file(crate, path, f"report/{path.relative_to(folder).as_posix()}") for path in files]


def add_run(
    crate: ROCrate,
    plan: Plan,
    workflow: Any,
    given: list[Any],
    made: list[Any],
    manifests: list[dict[str, Any]],
) -> None:
    """The run: when, on what machines and with what software the jobs made which files from which."""
    times = [values["times"] for values in manifests]
    seconds = sum(t["seconds"] for t in times)
    environments = [values["environment"] for values in manifests]
    seen = {json.dumps(environment, sort_keys=True): environment for environment in environments}
    said = [
        ", ".join(f"{k} {v}" for k, v in environment.items() if v is not None)
        for environment in seen.values()
    ]
    run = crate.add_action(
        workflow,
        identifier="#run",
        object=given,
        result=made,
        properties={
            "@type": "CreateAction",
            "name": f"The experiment {plan.experiment}",
            "description": f"{len(manifests)} jobs, {duration(seconds)} in all. " + "; ".join(said),
            "startTime": min(t["started"] for t in times),
            "endTime": max(t["ended"] for t in times),
            "actionStatus": "http://schema.org/CompletedActionStatus",
        },
    )
    names = ("python", "torch", "torchvision", "numpy", "opencv-python-headless")
    versions = {(name, e[name]) for e in seen.values() for name in names if e.get(name)}
    run_with = [
        {"@type": "SoftwareApplication", "name": name, "softwareVersion": version}
        for name, version in sorted(versions)
    ]
    workflow["softwareRequirements"] = [
        crate.add(ContextEntity(crate, f"#{entry['name']}-{entry['softwareVersion']}", entry))
        for entry in run_with
    ]
    crate.root_dataset["mentions"] = [run]
