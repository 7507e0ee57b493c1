"""Params: resolved values, their origins, and error messages."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

from i2r import cli
from i2r.config import load, readings, show
from i2r.config.base import WORD, ParamsError
from i2r.config.data_set import SOURCES
from i2r.config.experiment import Experiment
from i2r.config.methods import SECTIONS, leaves
from i2r.config.networks import NETWORKS
from i2r.config.schema import BACKBONES, RunParams
from i2r.pipeline.steps import STEPS

PRESETS = sorted((ROOT / "workflow/presets").glob("*.yaml"))
PASCAL, TINY = (ROOT / f"workflow/presets/{name}.yaml" for name in ("pascal", "tiny"))


def resolved(name: str = "tiny", **changes: Any) -> load.Params:
    layers = load.read_layers(ROOT / f"workflow/presets/{name}.yaml")
    return load.resolve([*layers, ("test", changes)])


def get(values: dict[str, Any], key: str) -> Any:
    for name in key.split("."):
        values = values[name]
    return values


# --- files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_resolves_alike_as_params_file_and_as_configfile(path: Path, tmp_path: Path):
    """With --configfile no value of params.yaml remains, including under Snakemake."""
    alone = load.load(path)
    (tmp_path / "workflow").symlink_to(ROOT / "workflow")
    (tmp_path / "params.yaml").write_text(
        "experiment: other\ndata: {source: shapes, size: 97}\nbackbone: {name: small}\n"
        "network: {width: 8, blocks: 1, cross: 0}\ntrain: {lr: 9, batch: 7}\n"
        "methods: {bam: {network: bam, train: {steps: 600, lr: 0.002}}}\ntargets: {table1: {methods: [bam]}}\n"
    )
    (tmp_path / "show.smk").write_text(
        "from i2r.config.load import load\n"
        "made = load(workflow.overwrite_configfiles, workflow.config_settings.config)\n"
        "print('FOUND', made.values.model_dump_json())\n"
        "print('METHODS', {n: m.params.model_dump() for n, m in made.methods.items()})\n"
        "rule all:\n    shell: ''\n"
    )
    command = [sys.executable, "-m", "snakemake", "-s", "show.smk", "-n", "--configfile", str(path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines() if line[:5] in ("FOUND", "METHO"))
    assert json.loads(lines["FOUND"]) == json.loads(alone.values.model_dump_json())
    assert lines["METHODS"] == str({n: m.params.model_dump() for n, m in alone.methods.items()})


def test_files_that_extend_the_same_one(tmp_path: Path):
    """What the first file changes is not undone by the second one, which extends the same file."""
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("extends: shapes.yaml\ntrain: {lr: 0.5, steps: 7}\n")
    second.write_text("extends: shapes.yaml\ntrain: {steps: 9}\n")
    found = load.load([first, second])
    assert (found.methods["i2r"].params.train.lr, found.methods["i2r"].params.train.steps) == (0.5, 9)
    assert found.origin["train.steps"] == "second.yaml" and found.origin["train.batch"] == "shapes.yaml"
    assert load.load([first, first]).values == load.load(first).values
    back = load.load([second, load.PRESETS / "shapes.yaml"])
    assert (
        back.methods["i2r"].params.train.steps
        == load.load(load.PRESETS / "shapes.yaml").methods["i2r"].params.train.steps
    )


def test_params_yaml_is_the_preset_shapes():
    assert (ROOT / "params.yaml").read_text() == (ROOT / "workflow/presets/shapes.yaml").read_text()


def test_presets_are_short():
    for path in PRESETS:
        lines = [line for line in path.read_text().splitlines() if line and not line.lstrip().startswith("#")]
        assert len(lines) <= 40, path.name


def test_a_file_that_extends_another_is_laid_over_it(tmp_path: Path):
    (tmp_path / "low.yaml").write_text(PASCAL.read_text().replace("root: null", "root: data/VOC2012"))
    (tmp_path / "high.yaml").write_text("extends: low.yaml\nexperiment: mine\ntrain: {lr: 0.3}\n")
    made = load.load(tmp_path / "high.yaml")
    assert (made.values.experiment, made.values.train.lr, made.values.data.root) == (
        "mine",
        0.3,
        "data/VOC2012",
    )
    assert made.origin["train.lr"] == "high.yaml" and made.origin["data.root"] == "low.yaml"
    (tmp_path / "low.yaml").write_text("extends: high.yaml\n")
    with pytest.raises(ParamsError, match="extends itself"):
        load.load(tmp_path / "high.yaml")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"train: {lr: 1}\ntrain: {lr: 2}\n", "'train' is given twice"),
        ("experiment: ä".encode("latin-1"), "not UTF-8"),
        (b"- a\n- b\n", "expected a mapping"),
        (b"a: [", "not YAML"),
        (b"extends: 3\n", "must be the name of a file"),
        (b"extends: none.yaml\n", "none.yaml: no such params file"),
        (b"train: 3\n", "train: expected a mapping"),
        (b"experiment: x\nmethods: 3\n", "methods"),
    ],
)
def test_a_file_that_cannot_be_read_gets_its_sentence(tmp_path: Path, content: bytes, sentence: str):
    (tmp_path / "params.yaml").write_bytes(content)
    with pytest.raises(ParamsError, match=sentence):
        load.load(tmp_path / "params.yaml")


def test_a_byte_order_mark_is_understood(tmp_path: Path):
    (tmp_path / "params.yaml").write_bytes(b"\xef\xbb\xbf" + PASCAL.read_bytes())
    assert load.load(tmp_path / "params.yaml").values == load.load(PASCAL).values


# --- values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train": {"lrr": 1}}, r"train\.lrr: unknown key"),
        ({"train": {"steps": "many"}}, r"train\.steps: .*\(got 'many'\)"),
        ({"network": {"blocks": 1, "cross": 2}}, r"cross \(2\) cannot be larger than blocks \(1\)"),
        ({"network": {"prior": "pmgm+pmgm"}}, r"network\.prior: must be one of"),
        ({"methods": {"bam": {"network": {"mask": "dicm"}}}}, r"methods\.bam: network\.mask: unknown key"),
        ({"network": "unet"}, r"network\.name: must be one of i2r, bam"),
        (
            {"cam_head": {"mode": "none"}},
            r"methods\.i2r: cam_head\.mode: none, but the network's prior needs a CAM",
        ),
        ({"base_learner": {"trains": "all"}}, "use retrained or untouched"),
        ({"cam_head": {"mode": "retrained"}}, "but base_learner.trains is head"),
        (
            {"data": {"source": "voc", "root": "d"}},
            "photographs need another backbone",
        ),
        ({"data": {"size": 100}}, "size - 1 must be a multiple of 8"),
        ({"base_learner": {"size": 100}}, r"base_learner\.size: size - 1 must be a multiple of 8"),
        ({"data": {"draw": "all"}}, r"data\.draw: "),
        ({"data": {"folds": "random"}}, r"data\.folds: "),
        (
            {"methods": {"Bad name/": {}}},
            "'Bad name/' is not a valid name: names are lower-case letters",
        ),
        ({"experiment": "../up"}, "'../up' is not a valid name"),
        ({"experiment": "store"}, "is reserved for a folder of results/"),
        ({"targets": {"train": {"methods": ["i2r"]}}}, "is the name of a stage"),
        ({"targets": {"table9": {"methods": ["i2r"]}}}, r"targets\.table9\.form: missing"),
        ({"targets": {"table1": {"methods": ["none"]}}}, r"targets\.table1: 'none' is not among methods"),
        ({"make": ["table2"]}, "'table2' is not among targets"),
        ({"reading": "authors"}, "reading"),
        ({"train": {"sampling": "pairs", "batch": 3}}, r"train: sampling: pairs needs an even batch, got 3"),
        (
            {"train": {"sampling": "balanced-pairs", "batch": 3}},
            r"sampling: balanced-pairs needs an even batch",
        ),
        ({"train": {"momentum": WORD}}, r"train\.momentum: no reading has a value for it"),
        ({"train": {"lr": float("inf")}}, r"train\.lr: .*finite number"),
        ({"train": {"augment": {"scale": [2, 1]}}}, r"train\.augment\.scale: must be a range"),
        ({"threads": True}, r"threads: must be a number \(got True\)"),
        ({"methods": {"bam": {"train": {"lr": True}}}}, r"methods\.bam: train\.lr: must be a number"),
        ({"methods": {"bam": {"label": "two\nlines"}}}, r"methods\.bam\.label: must be one line"),
        ({"methods": {"bam": 3}}, r"methods\.bam: must be a mapping of keys to values \(got 3\)"),
        ({"methods": {"bam": {"network": 3}}}, "a network's name or a mapping of its options"),
        ({"network": {"delta": 2}}, r"network\.delta: must be a number from 0 to 1, or adaptive \(got 2\)$"),
        ({"evaluate": {"seeds": [0, -1]}}, r"evaluate\.seeds: must be at least 0 \(got -1\)"),
        ({"train": {1: 2}}, r"train\.1: keys must be text"),
        ({"methods": {"bam": {"network": {"width": {"a.b": 2}}}}}, r"methods\.bam: network\.width: "),
        (
            {"methods": {"bam": {"network": {"name": ["bam"]}}}},
            r"methods\.bam: network\.name: must be one of",
        ),
        ({"methods": {"bam": {"network": "unet"}}}, r"test: methods\.bam: network\.name: must be one of"),
        ({"network": {"name": {}}}, r"network\.name: must be one of"),
        ({"runtime": {"device": "gpu"}}, r"runtime\.device: must be auto, cpu, cuda or cuda:N, got 'gpu'"),
        ({"evaluate": {"seeds": [1, 1]}}, r"evaluate\.seeds: 1 is given twice"),
        (
            {"targets": {"table1": {"methods": ["i2r", "i2r"]}}},
            r"targets\.table1\.methods: 'i2r' is given twice",
        ),
        ({"targets": {"table1": {"folds": [0, 0]}}}, r"targets\.table1\.folds: 0 is given twice"),
        (
            {"targets": {"table1": {"folds": [1, 4]}}},
            r"targets\.table1\.folds: data\.source shapes has folds 0 to 3, got 4",
        ),
        ({"targets": {"table1": {"folds": []}}}, r"targets\.table1\.folds: must not be empty"),
        ({"targets": {"table4": {"baselines": ""}}}, "'' is not among methods"),
        (
            {"targets": {"alone": {"form": "table1", "baselines": "i2r"}}},
            r"targets\.alone\.methods: missing; only the form table4 shows baselines alone",
        ),
        ({"targets": {"train_job": {"methods": ["i2r"]}}}, "a folder or a rule"),
        ({"methods": {"a" * 61: {}}}, "at most 60 characters"),
        ({"experiment": "mlflow.db"}, "is reserved for a folder of results/"),
    ],
)
def test_what_is_wrong_is_named_when_the_plan_is_made(changes: dict, sentence: str):
    with pytest.raises(ParamsError, match=sentence):
        load.resolve([*load.read_layers(TINY), ("test", changes)], "test")


def test_no_wrong_value_is_reported_in_the_words_of_the_schema_library():
    names = {key for key in load.leaves(resolved().values.model_dump()) if not key.startswith("methods.")}
    layers, refused = load.read_layers(TINY), 0
    assert len(names) > 100
    for key, value in itertools.product(sorted(names), (-1, 0.5, "odd\n", True, {}, [], [-1, {}])):
        changes: Any = value
        for part in reversed(key.split(".")):
            changes = {part: changes}
        try:
            load.resolve([*layers, ("test", changes)], "test")
        except ParamsError as error:
            refused += 1
            assert not re.search(r"Input should|Value should|String should|pydantic|\w\[", str(error)), error
    assert refused > 500


def test_the_folds_of_a_target_are_those_of_its_data(monkeypatch):
    layers = load.read_layers(TINY)
    other = {"methods": {"other": {"data": {"source": "voc", "root": "x"}, "backbone": {"name": "resnet50"}}}}

    def folds(target):
        layer = ("test", other | {"targets": {"table9": {"form": "table1"} | target}})
        return load.resolve([*layers, layer], "test").values.targets["table9"].folds

    assert folds({"methods": ["i2r", "other"]}) == [0, 1, 2, 3]
    monkeypatch.setitem(SOURCES, "voc", SOURCES["voc"]._replace(folds=2))
    assert folds({"methods": ["other"]}) == folds({"form": "table4", "baselines": "other"}) == [0, 1]
    assert folds({"methods": ["i2r", "other"], "folds": [1]}) == [1]
    with pytest.raises(ParamsError, match=r"table9\.folds: missing, .* differ in folds \(shapes 4, voc 2\)"):
        folds({"methods": ["i2r", "other"]})
    with pytest.raises(ParamsError, match=r"data\.source voc has folds 0 to 1, got 2"):
        folds({"methods": ["i2r"], "baselines": "other", "folds": [2]})


@pytest.mark.parametrize("name", [*STEPS, "plan", "view", "all"])
def test_a_target_has_no_name_of_a_folder_beside_its_report(name: str):
    """Its report would take the place of the step's results."""
    with pytest.raises(ParamsError, match=f"'{name}' is the name of a stage"):
        resolved(targets={name: {"form": "table1", "methods": ["i2r"]}})


def test_values_given_as_text_count_as_what_they_are():
    """Snakemake's --config turns nested values into strings."""
    made = resolved(train={"steps": "7", "lr": "0.5"}, network={"ensemble": "false"})
    assert (made.values.train.steps, made.values.train.lr, made.values.network.ensemble) == (7, 0.5, False)


def test_five_shots_fit_every_preset():
    for path in PRESETS:
        layers = load.read_layers(path)
        five = {"targets": {"table1": {"shots": [1, 5], "methods": ["i2r"]}}}
        load.resolve([*layers, ("test", five)], paper=True)


def test_another_network_starts_from_its_own_defaults():
    made = resolved(network={"width": 32}, methods={"other": {"network": "bam"}})
    assert made.methods["other"].params.network.width == 256
    assert made.methods["i2r"].params.network.width == 32


# --- readings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reading", readings.READINGS)
def test_every_option_of_a_reading_is_the_default_of_the_schema(reading: str):
    made = load.load(PASCAL, {"reading": reading})
    found = made.methods["i2r"].params.model_dump(mode="json")
    for option in readings.OPTIONS:
        assert get(found, option.key) == readings.says(reading)[option.key], option.key
        assert option.where


def test_pascal_leaves_every_value_in_which_sources_differ_to_the_reading():
    for _, values in load.read_layers(PASCAL):
        given = set(leaves({name: values[name] for name in SECTIONS if name in values}))
        assert not given & {option.key for option in readings.OPTIONS}


@pytest.mark.parametrize("reading", readings.READINGS)
def test_the_row_bam_is_bam_whatever_reading_i2r_has(reading: str):
    bam = load.load(PASCAL, {"reading": reading}).methods["bam"].params
    assert bam.backbone.name == "resnet50-bam" and bam.cam_head.mode == "none"
    learner = bam.base_learner
    assert (learner.trains, learner.lr, learner.backbone_rate, learner.batch, learner.steps) == (
        *("all", 0.0025, 0.1, 12),
        "100 epochs",
    )
    assert (bam.train.lr, bam.train.batch, bam.train.precision) == (0.05, 8, "fp32")
    assert (bam.evaluate.scoring, bam.evaluate.tta) == ("bam", "none")
    assert (bam.network.name, bam.network.prior, bam.network.ensemble) == ("bam", "bam", True)


BASE_LEARNER = {
    "released": {
        **{"trains": "all", "list": "all", "size": 473, "optimiser": "adamw", "warmup": 0.1, "batch": 64},
        **{"lr": 0.0025, "backbone_rate": 0.1, "steps": "100 epochs"},
        **{"validate_every": 1, "checkpoint": "best", "patience": 0},
        # only the random crop
        "augment": {"scale": [1.0, 1.0], "rotate_p": 0.0, "blur_p": 0.0, "flip_p": 0.0},
    },
    "bam": {
        **{"trains": "all", "list": "all", "size": 417, "optimiser": "sgd", "warmup": 0.0, "batch": 12},
        **{"lr": 0.0025, "backbone_rate": 0.1, "steps": "100 epochs"},
        **{"momentum": 0.9, "weight_decay": 1e-4, "power": 0.9},
        **{"validate_every": 1, "checkpoint": "best", "patience": 75},
        "augment": {"scale": [0.5, 2.0], "rotate": 10.0, "rotate_p": 0.5, "blur_p": 0.5, "flip_p": 0.5},
    },
}
BASE_LEARNER["paper"] = BASE_LEARNER["bam"] | {"trains": "head"}  # it says nothing else


@pytest.mark.parametrize("reading", readings.READINGS)
@pytest.mark.parametrize("row", ["i2r", "bam"])
def test_the_base_learner_and_the_draw_are_as_published(reading: str, row: str):
    """docs/method.md 2.1 and 8.1; the row called BAM is BAM in every reading."""
    params = load.load(PASCAL, {"reading": reading}).methods[row].params
    expected = BASE_LEARNER["bam" if row == "bam" else reading]
    found = params.model_dump(mode="json")["base_learner"]
    assert {key: get(found, key) for key in leaves(expected)} == {
        key: get(expected, key) for key in leaves(expected)
    }
    assert (params.data.draw, params.data.folds, params.train.augment.scale) == ("present", None, (0.9, 1.1))


@pytest.mark.parametrize("name", ["tiny", "shapes", "voc-animals", "voc-subset"])
def test_small_presets_train_the_base_learner_on_the_list_of_the_fold(name: str):
    values = resolved(name).values
    learner = values.base_learner
    assert (learner.list, learner.size, learner.validate_every) == ("fold", None, 0)
    assert values.data.draw == "large"


def test_a_reading_has_other_values_for_coco():
    bam, released = (readings.says(reading, "coco") for reading in ("bam", "released"))
    assert bam["base_learner.lr"] * bam["base_learner.backbone_rate"] == 0.0025  # 2.5e-3 for all
    assert (bam["base_learner.steps"], bam["train.steps"]) == ("20 epochs", "50 epochs")
    assert (released["train.steps"], released["train.batch"]) == ("60 epochs", 24)
    assert (bam["network.ensemble"], released["network.ensemble"]) == (True, False)
    assert {readings.says(name, "coco")["data.size"] for name in readings.READINGS} == {641}
    assert set(readings.COCO) <= {option.key for option in readings.OPTIONS}
    for source, steps in (("coco", "20 epochs"), ("voc", "100 epochs")):
        sections = {"data": {"source": source}, "base_learner": {"steps": WORD}}
        assert readings.settle(sections, "bam")["base_learner"]["steps"] == steps


def test_the_released_classifier_learns_from_the_images_of_the_base_learner():
    released = load.load(PASCAL, {"reading": "released"}).methods["i2r"].params
    assert (released.cam_head.mode, released.cam_head.list) == ("retrained", "all")
    assert released.cam_head.list == released.base_learner.list


def test_the_paper_can_be_read_with_a_trained_backbone_and_the_untouched_classifier():
    made = resolved(base_learner={"trains": "all"}, cam_head={"mode": "untouched"})
    assert made.methods["i2r"].params.cam_head.mode == "untouched"


def test_the_value_counts_and_not_the_word():
    assert resolved().methods["i2r"].params == resolved(network={"mask": "dicm"}).methods["i2r"].params


# --- for readers ---------------------------------------------------------------------------------------------


def test_every_field_has_a_description():
    for model in (Experiment, RunParams, *NETWORKS.values()):
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
    for key, _, _, text in show._rows(Experiment):
        assert text, key


def test_pages_made_from_the_schema_are_up_to_date():
    for path, made in (
        (ROOT / "docs/params.md", show.params_page()),
        (
            ROOT / "docs/params.schema.json",
            json.dumps(show.json_schema(), indent=1, ensure_ascii=False) + "\n",
        ),
    ):
        assert path.read_text() == made, f"{path.name}: call `i2r dev write-docs`"


def test_every_value_and_where_it_comes_from_is_printed(capsys: pytest.CaptureFixture):
    cli.main(["params", "--configfile", str(PASCAL), "--method", "bam"])
    text = capsys.readouterr().out
    assert "reading bam" in text and "pascal.yaml" in text and "default" in text
    cli.main(["params", "--configfile", str(PASCAL), "--method", "bam", "--json"])
    sections = json.loads(capsys.readouterr().out)
    assert sections == load.load(PASCAL).methods["bam"].params.model_dump(mode="json")
    with pytest.raises(SystemExit):
        cli.main(["params", "--configfile", str(PASCAL), "--method", "none"])
    assert "'none' is not among methods" in capsys.readouterr().err


def test_the_table_of_readings_is_printed(capsys: pytest.CaptureFixture):
    cli.main(["readings"])
    text = capsys.readouterr().out
    assert all(option.key in text for option in readings.OPTIONS)


def test_registries_name_code_that_is_there():
    from i2r.pipeline.digests import path_of

    for place in (
        *(entry.build for entry in BACKBONES.values()),
        *(options.module for options in NETWORKS.values()),
    ):
        assert path_of(place.split(":")[0]), place


def test_the_conda_environment_has_the_versions_of_the_lock():
    pins = dict(
        line.split("==") for line in (ROOT / "envs/constraints.txt").read_text().split() if "==" in line
    )
    environment = yaml.safe_load((ROOT / "envs/i2r.yaml").read_text())
    (listed,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert listed == [f"{name.split('==')[0]}=={pins[name.split('==')[0]]}" for name in listed]
    asked = (ROOT / "envs/requirements.in").read_text().splitlines()
    asked = {re.split(r"[<>=]", line)[0] for line in asked if line and not line.startswith("#")}
    assert asked == {name.split("==")[0] for name in listed}
