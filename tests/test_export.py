"""`i2r export`: the RO-Crate of a finished experiment, and what the validator of the profile says of it."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import zipfile
from importlib.metadata import files
from pathlib import Path

import fake_jobs
import pytest

from i2r.pipeline.jobs import run_job
from i2r.pipeline.spec import JobError

pytest.importorskip("rocrate", reason="rocrate is not installed")

import yaml

from i2r.export import export

ROOT = Path(__file__).parents[1]
VALIDATOR = ROOT / ".venv-docs/bin/rocrate-validator"
CONTEXT = "https://w3id.org/ro/crate/1.1/context"
TARGETS = {"table1": {"methods": ["i2r"], "folds": [0, 1]}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(results, plan, params file) of a finished experiment."""
    folder = tmp_path_factory.mktemp("export")
    changes = {"methods": {"i2r": {}}, "targets": TARGETS}
    made = fake_jobs.make(folder / "results", **changes)
    (folder / "params.yaml").write_text(yaml.safe_dump(fake_jobs.experiment(**changes)), encoding="utf-8")
    return folder / "results", made, folder / "params.yaml"


@pytest.fixture(scope="module")
def crate(finished):
    """The zip file."""
    results, made, params = finished
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        to = results / "crate.zip"
        with pytest.raises(JobError, match=r"1 of .* jobs have not finished, the first is report"):
            export(made, [params], to, results)
        assert not to.exists()
        run_job(fake_jobs.report_of(made).path(results))
        with pytest.raises(JobError, match=r"ends in .zip"):
            export(made, [params], results / "crate", results)
        return export(made, [ROOT / "workflow/presets/tiny.yaml", params], to, results)


def test_the_crate_has_workflow_params_manifests_and_report(crate, finished):
    results, made, params = finished
    with zipfile.ZipFile(crate) as archive:
        names = set(archive.namelist())
        # of several params files each, and those that they extend
        assert {f"workflow/presets/{name}.yaml" for name in ("shapes", "tiny")} <= names
        graph = {
            entry["@id"]: entry for entry in json.loads(archive.read("ro-crate-metadata.json"))["@graph"]
        }
        for spec in (spec for spec in made.of("all") if spec.step != "track"):
            stored = archive.read(f"manifests/{spec.step}/{spec.key}.json")
            assert stored == (results / spec.folder / "manifest.json").read_bytes()
        report = fake_jobs.report_of(made)
        products = json.loads(archive.read(f"manifests/report/{report.key}.json"))["products"]
        page = archive.read("report/report.html")
        assert hashlib.sha256(page).hexdigest() == products["report.html"]
    listed = {name for name, entry in graph.items() if "File" in entry["@type"]}
    assert listed | {"ro-crate-metadata.json"} == names
    assert {
        "workflow/Snakefile",
        "workflow/rules/jobs.smk",
        "envs/constraints.txt",
        "report/table.md",
    } <= names
    assert f"params/{params.name}" in names
    run = graph["#run"]
    assert run["instrument"] == {"@id": "workflow/Snakefile"} == graph["./"]["mainEntity"]
    assert run["startTime"] <= run["endTime"] and "torch 2.13.0" in run["description"]
    assert {"@id": "report/report.html"} in run["result"] and {"@id": "envs/constraints.txt"} in run["object"]


PRIME = """
import sys, requests, requests_cache, urllib3
session = requests_cache.CachedSession(sys.argv[1])
response = requests.Response()
response.status_code, response._content = 200, open(sys.argv[3], "rb").read()
response.url, response.headers["Content-Type"] = sys.argv[2], "application/ld+json"
response.request = requests.Request("GET", sys.argv[2]).prepare()
response.raw = urllib3.HTTPResponse(response.content, status=200, preload_content=False)
response.raw._request_url = sys.argv[2]
session.cache.save_response(response)
"""


@pytest.mark.slow
@pytest.mark.skipif(not VALIDATOR.is_file(), reason="rocrate-validator is not installed: `make docs` does")
def test_the_validator_finds_nothing_that_the_profile_requires(crate, tmp_path):
    """Without network: the context of RO-Crate 1.1 is that of 1.3, which comes with rocrate, as far as they differ."""
    (packaged,) = (file.locate() for file in files("rocrate") if file.name == "ro-crate.jsonld")
    context = json.loads(Path(packaged).read_text(encoding="utf-8"))
    terms = context["@context"]
    of_1_1 = {name: f"https://bioschemas.org/{name}" for name in ("ComputationalWorkflow", "FormalParameter")}
    terms |= of_1_1 | {name: f"https://bioschemas.org/properties/{name}" for name in ("input", "output")}
    (tmp_path / "context.jsonld").write_text(json.dumps(context), encoding="utf-8")
    cache = str(tmp_path / "cache")
    prime = [
        str(VALIDATOR.with_name("python")),
        "-c",
        PRIME,
        cache,
        CONTEXT,
        str(tmp_path / "context.jsonld"),
    ]
    subprocess.run(prime, check=True)
    status, report = validated(crate, cache)
    assert status == 0, report
    folder = tmp_path / "broken"
    shutil.unpack_archive(crate, folder)
    metadata = json.loads((folder / "ro-crate-metadata.json").read_text())
    metadata["@graph"] = [entry for entry in metadata["@graph"] if entry["@id"] != "#run"]
    (folder / "ro-crate-metadata.json").write_text(json.dumps(metadata))
    status, report = validated(folder, cache)
    assert status == 1 and "requirements have not been met" in report


def validated(crate: Path, cache: str) -> tuple[int, str]:
    """Exit status and report of the validator, which reads from this cache instead of the network."""
    command = [
        str(VALIDATOR),
        "-y",
        "validate",
        "-p",
        "workflow-run-crate-0.5",
        "--offline",
        "--cache-path",
        cache,
    ]
    command += ["--no-paging", "-v", "-o", f"{cache}.txt", str(crate)]
    status = subprocess.run(command, capture_output=True).returncode
    return status, Path(f"{cache}.txt").read_text(encoding="utf-8")
