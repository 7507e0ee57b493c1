"""`i2r register`: the best network of a method becomes a model that loads and answers without the results."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import fake_jobs
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from i2r import cli
from i2r.config import schema
from i2r.config.networks import network_options
from i2r.nets.backbone.base import build_backbone
from i2r.nets.networks import build_meta_learner
from i2r.pipeline.jobs import run_job
from i2r.pipeline.spec import JobError
from i2r.predict import load

pytest.importorskip("mlflow", reason="mlflow is not installed")

import mlflow

from i2r.tracking import registry
from i2r.tracking.database import open_database

TARGETS = {"table1": {"methods": ["i2r"], "folds": [0, 1]}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """results/ of an experiment with two trainings, whose weights are real ones of untrained networks."""
    results = tmp_path_factory.mktemp("register") / "results"
    made = fake_jobs.make(results, methods={"i2r": {"network": {"width": 16}}}, targets=TARGETS)
    report = fake_jobs.report_of(made)
    run_job(report.path(results))
    for spec in [spec for spec in made.jobs.values() if spec.step == "train"]:
        write_weights(results, spec)
    shutil.copytree(results / report.folder, results / made.experiment / "report")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield results, made
    mlflow.set_tracking_uri(None)


def write_weights(results: Path, spec) -> None:
    """Untrained weights of a training and of its frozen networks."""
    torch.manual_seed(spec.args["fold"])
    backbone = build_backbone(schema.Backbone(**spec.params["backbone"]), 20).eval()
    meta_learner = build_meta_learner(network_options(spec.params["network"]), backbone.layout)
    head = {name: x for name, x in backbone.state_dict().items() if name.startswith("fc.")}
    places = {spec.folder: meta_learner.state_dict()}
    places |= {spec.inputs["backbone"].folder: backbone.state_dict(), spec.inputs["cam_head"].folder: head}
    for folder, state in places.items():
        save_file(state, results / folder / "weights.safetensors")


@pytest.fixture(scope="module")
def version(finished):
    results, made = finished
    return registry.register(results, made.experiment, "i2r", None, None)


def scores(results: Path, made) -> dict[str, float]:
    """Key of each training -> its mIoU."""
    return {
        spec.inputs["train"].key: json.loads((results / spec.folder / "scores.json").read_text())["miou"]
        for spec in made.jobs.values()
        if spec.step == "evaluate"
    }


def test_the_training_with_the_best_score_is_registered_once(finished, version):
    results, made = finished
    found = scores(results, made)
    assert len(found) == 2 and version.tags["i2r.key"] == max(found, key=lambda key: found[key])
    assert f"{max(found.values()):.1f} mIoU" in version.description
    client = open_database(results)
    name = f"{made.experiment}-i2r-1shot"
    assert registry.register(results, made.experiment, "i2r", 1, None).version == version.version
    assert len(client.search_model_versions(f"name = '{name}'")) == 1
    assert client.get_model_version_by_alias(name, "best").version == version.version
    run = client.get_run(version.run_id)
    assert run.data.tags["i2r.key"] == version.tags["i2r.key"]


def read(text: str) -> np.ndarray:
    """The image of the base64 text of an image file."""
    return np.array(Image.open(io.BytesIO(base64.b64decode(text))))


def test_the_model_predicts_what_the_network_predicts(finished, version):
    model = mlflow.pyfunc.load_model(f"models:/{version.name}/{version.version}")
    (given,) = model.metadata.signature.inputs.inputs
    assert {part.name for part in given.type.properties} == {"query", "supports", "masks"}
    (episode,) = model.input_example
    (answer,) = model.predict([episode])
    weights = finished[0] / "store/train" / version.tags["i2r.key"] / "weights.safetensors"
    supports, masks = ([read(text) for text in episode[name]] for name in ("supports", "masks"))
    expected = load(weights, "cpu").predict(read(episode["query"]), supports, masks)
    np.testing.assert_array_equal(read(answer.mask), expected.mask)
    np.testing.assert_allclose(read(answer.probability) / 65535, expected.probability, atol=1e-4)


def test_what_is_wrong_with_a_request_names_the_support_as_the_library_does(version):
    model = mlflow.pyfunc.load_model(f"models:/{version.name}/{version.version}")
    (episode,) = model.input_example
    (support,), (mask,) = episode["supports"], episode["masks"]
    text = base64.b64encode(b"no image").decode()
    for changed, message in (
        ({"query": "no base64"}, "query: not base64 text"),
        ({"query": text}, "query: cannot be read as an image"),
        ({"supports": [text]}, "support 1: cannot be read as an image"),
        ({"masks": [text]}, "the mask of support 1: not an image"),
        ({"masks": [support]}, "the mask of support 1: a mask must be a palette or grey PNG"),
        ({"supports": [support, text], "masks": [mask, mask]}, "support 2: cannot be read as an image"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            model.predict([episode | changed])


def test_an_unknown_method_is_named_before_a_missing_report(capsys):
    with pytest.raises(SystemExit):
        cli.main(["register", "NOSUCH"])
    assert "'NOSUCH' is not among methods (i2r, " in capsys.readouterr().err


def test_what_cannot_be_registered_is_said(finished):
    results, made = finished
    with pytest.raises(JobError, match="no evaluated training of hsnet like that; there are i2r"):
        registry.register(results, made.experiment, "hsnet", None, None)
    with pytest.raises(JobError, match="no evaluated training of i2r like that"):
        registry.register(results, made.experiment, "i2r", 5, None)
    with pytest.raises(JobError, match="no report yet"):
        registry.register(results, "another", "i2r", None, None)


LOADS = """
import json, sys, mlflow
model = mlflow.pyfunc.load_model("model")
import i2r
print(i2r.__file__)
print(json.dumps([answer.model_dump() for answer in model.predict(json.load(open("request.json"))["inputs"])]))
"""


@pytest.mark.slow
def test_another_process_loads_and_serves_it_without_results_and_package(finished, version, tmp_path):
    client = open_database(finished[0])
    mlflow.set_tracking_uri(client.tracking_uri)
    place = mlflow.artifacts.download_artifacts(
        f"models:/{version.name}/{version.version}", dst_path=str(tmp_path / "model")
    )
    request = (Path(place) / "serving_input_example.json").read_bytes()
    (tmp_path / "request.json").write_bytes(request)
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")}
    loaded = subprocess.run(
        [sys.executable, "-c", LOADS],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    package, answers = loaded.stdout.strip().splitlines()[-2:]
    assert Path(package).is_relative_to(tmp_path / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "model", "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    server = subprocess.Popen(command, cwd=tmp_path, env=environment, process_group=0)
    try:
        assert json.loads(answer(port, request))["predictions"] == json.loads(answers)
        with pytest.raises(urllib.error.HTTPError) as refused:
            answer(port, json.dumps({"inputs": [{"query": "AAAA"}]}).encode())
        assert refused.value.code == 400
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)


def answer(port: int, body: bytes) -> bytes:
    """The server's answer, waited for until it is up."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
    )
    for _ in range(120):
        try:
            return urllib.request.urlopen(request, timeout=60).read()
        except urllib.error.HTTPError:
            raise
        except OSError:
            time.sleep(1)
    raise AssertionError("the server did not start")
