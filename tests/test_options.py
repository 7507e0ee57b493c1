"""Every value of every network option, run once with the real steps on a tiny data set."""

from __future__ import annotations

import json
import math
import types
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from learning import make_job, prepare, run_params

from i2r.config.base import ParamsError, Section
from i2r.config.load import resolve
from i2r.config.networks import CAMS, NETWORKS, PRIORS, CamOptions, I2ROptions, network_options
from i2r.config.schema import Evaluate, Train
from i2r.data.voc import IMAGENET_CLASSES, VOC_CLASSES
from i2r.engine.images import resized_reader
from i2r.engine.inputs import class_table
from i2r.nets.output import Output
from i2r.pipeline.jobs import JobError
from i2r.pipeline.steps import CAM
from i2r.steps import baselines, evaluate, train

TINY = {  # one step, two episodes
    "data": {"min_class_images": 6, "shapes": {"train_images": 120, "val_images": 200, "seed": 0}},
    "base_learner": {"steps": 1},
    "cam_head": {"steps": 1},
    "train": {"steps": 1, "batch": 2},
    "evaluate": {"episodes": 2, "pictures": 1},
    "baselines": {"threshold_episodes": 2},
}
SMALL = {
    "i2r": {"width": 16, "blocks": 2, "cross": 1},
    "bam": {"width": 16, "ensemble": True},
    "hsnet": {"channels": [4, 4, 4]},
    "query-only": {"width": 16},
}


def words(section: type[Section], name: str) -> list[Any]:
    """The values of an option with a fixed set of values; empty for numbers."""
    kind = section.model_fields[name].annotation
    found: list[Any] = []
    for part in get_args(kind) if isinstance(kind, types.UnionType) else (kind,):
        if part is bool:
            found += [True, False]
        elif get_origin(part) is Literal:
            found += get_args(part)
    return found


def cases() -> list[dict[str, Any]]:
    """Options of a network, with its name."""
    found = [{"cam": name, "cam_layer": layer} for name, cam in CAMS.items() for layer in cam.layers]
    found += [{"cam": name, "cam_backend": "grad-cam"} for name, cam in CAMS.items() if cam.package]
    found += [{"delta": 0.3}, {"delta": 0.0}, {"delta": 1.0}]
    found += [{"prior": prior} for prior in (*PRIORS, *("+".join(pair) for pair in combinations(PRIORS, 2)))]
    found += [{"blocks": blocks, "cross": cross} for blocks in (1, 2, 3) for cross in range(blocks + 1)]
    found += [{"support_branch": False, "cross": cross} for cross in (0, 1)]
    found = [{"name": "i2r", **case} for case in found]
    found += [{"name": "bam", "prior": prior, "ensemble": on} for prior in PRIORS for on in (True, False)]
    for network, options in NETWORKS.items():
        for name in options.model_fields:
            if name not in ("name", "cam", "cam_layer", "cam_backend", "prior"):
                found += [{"name": network, name: value} for value in words(options, name)]
    return found + [{"name": network} for network in NETWORKS]


def label(case: dict[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in case.items())


@pytest.fixture(scope="module", params=[1, 5])
def inputs(request, tmp_path_factory) -> tuple[int, dict[str, Path]]:
    return request.param, prepare(tmp_path_factory.mktemp("prepared"), shot=request.param, **TINY)


def steps(folder: Path, shot: int, inputs: dict[str, Path], **changes: dict[str, Any]) -> dict[str, Any]:
    """Train one step and evaluate two episodes; the scores."""
    changes = {name: {**TINY.get(name, {}), **changes.get(name, {})} for name in TINY.keys() | changes.keys()}
    job = make_job(folder, "train", inputs, shot=shot, **changes)
    assert math.isfinite(train.run(job)["loss"])
    job = make_job(folder, "evaluate", {**inputs, "train": job.out}, shot=shot, **changes)
    evaluate.run(job)
    scores = json.loads((job.out / "scores.json").read_text())
    assert scores["episodes"] == 2 and 0 <= scores["miou"] <= 100
    assert "prior" not in scores or math.isfinite(scores["prior"]["bce"])
    return scores


def test_every_option_with_fixed_values_is_swept():
    swept: dict[tuple[str, str], set] = {}
    for case in cases():
        for name, value in case.items():
            swept.setdefault((case["name"], name), set()).add(value)
    for network, options in NETWORKS.items():
        for name in set(options.model_fields) - set(CamOptions.model_fields):  # those of CAM: of I2R, below
            assert set(words(options, name)) <= swept.get((network, name), set()), f"{network}: {name}"
    for name in CamOptions.model_fields:
        default = {CamOptions.model_fields[name].default}  # every other case has it
        assert set(words(CamOptions, name)) <= swept.get(("i2r", name), set()) | default, name


@pytest.mark.slow
@pytest.mark.parametrize("case", cases(), ids=label)
def test_network_options_train_and_evaluate(inputs, tmp_path, case):
    shot, made = inputs
    network = {**SMALL.get(case["name"], {}), **case}
    scores = steps(tmp_path, shot, made, network=network)
    options = network_options(run_params(network=network).network.model_dump())
    assert ("prior" in scores) == isinstance(options, CamOptions)
    if isinstance(options, I2ROptions) and options.cross and options.mask != "none":
        assert len(scores["mask_ratio"]) == options.cross
    if case["name"] == "i2r" and case.keys() - {"name"} <= set(CAM):
        job = make_job(tmp_path, "baselines", made, shot=shot, **{**TINY, "network": network})
        assert all(value is not None for value in baselines.run(job).values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scoring", "tta", "mask", "delta"])
def test_evaluation_options(inputs, tmp_path, name):
    shot, made = inputs
    values = words(Evaluate, name) + ([0.5] if name == "delta" else [])
    for value in values:
        steps(tmp_path / str(value), shot, made, evaluate={name: value})


@pytest.mark.slow
def test_attention_masks_at_test(inputs, tmp_path):
    shot, made = inputs
    for mask in words(I2ROptions, "mask"):
        steps(tmp_path / mask, shot, made, network={"mask": mask}, evaluate={"mask": "cyctr"})


@pytest.mark.slow
def test_views_and_epochs(inputs, tmp_path):
    """Fresh views are encoded without the cache; an epoch is a pass over the training list."""
    shot, made = inputs
    table = {"class_source": "table"}
    steps(tmp_path / "table", shot, made, train={"augment": {"views": 0}}, network=table)
    batch = len(json.loads((made["lists"] / "lists.json").read_text())["train"]) // 2
    steps(tmp_path / "epochs", shot, made, train={"steps": "1 epochs", "batch": batch})
    assert len((tmp_path / "epochs/train/metrics.jsonl").read_text().splitlines()) == 2


# --- what the options mean ---------------------------------------------------------------------------------


def test_epochs_are_passes_over_the_images():
    values = run_params().train.model_dump()
    schedule = Train(**values | {"steps": "3 epochs", "batch": 8})
    assert schedule.over(100).steps == 37 and schedule.over(2).steps == 1
    assert Train(**values | {"steps": "12"}).over(100).steps == 12
    for wrong in ("many", "0", -1, "0 epochs", 1.5, True):
        with pytest.raises(ValueError, match="number of steps"):
            Train(**values | {"steps": wrong})


def test_sides_of_test_time_augmentation():
    assert evaluate.tta_sides("none", 473) == []
    assert evaluate.tta_sides("scales", 473) == [(377,), (593,)]
    assert evaluate.tta_sides("released", 473) == [(377,), (377, 473)]
    pair = (torch.rand(3, 97, 97), torch.randint(0, 3, (97, 97)).to(torch.uint8))
    image, mask = resized_reader(lambda view: pair, 81, 97)("view")
    assert image.shape == (3, 97, 97) and mask.shape == (97, 97)
    assert torch.equal(mask, pair[1]) and not torch.allclose(image, pair[0], atol=0.01)


def test_final_logits_are_means_over_the_passes():
    def head(maps):
        return Output(final_logits=maps)

    first, second = torch.rand(2, 2, 9, 9), torch.rand(2, 2, 17, 17)
    output, alone = evaluate.augmented(head, [first])
    assert torch.equal(output.final_logits, first) and alone is None
    output, alone = evaluate.augmented(head, [first, second])
    torch.testing.assert_close(output.final_logits, (first + second[..., ::2, ::2]) / 2)
    assert torch.equal(alone, first)


def test_class_tables():
    assert class_table(list("abc"), 3, {}).tolist() == [0, 1, 2]
    assert class_table(list(VOC_CLASSES), 1000, IMAGENET_CLASSES).tolist()[:3] == [404, 671, 13]
    assert len(set(IMAGENET_CLASSES.values())) == 20
    for names, classes in ((["star"], 1000), (list(VOC_CLASSES), 30)):
        with pytest.raises(JobError, match="class_source: table"):
            class_table(names, classes, IMAGENET_CLASSES)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ({"blocks": 2, "cross": 3}, r"cross \(3\) cannot be larger than blocks \(2\)"),
        ({"cam": "cam", "cam_layer": "layer3"}, "cam_layer must be layer4 for cam: cam"),
        ({"cam": "bagcam", "cam_backend": "grad-cam"}, "cam: bagcam .*cam_backend: grad-cam"),
        ({"prior": "pmgm+pmgm"}, "prior: must be one of"),
        ({"prior": "pmgm+bam+mean"}, "prior: must be one of"),
        ({"delta": 1.5}, "delta"),
        ({"mask": "dcim"}, "mask"),
        ({"blocks": 0}, "blocks"),
    ],
    ids=lambda case: label(case) if isinstance(case, dict) else "",
)
def test_impossible_options_are_refused_by_name(case, words):
    values = {"experiment": "x", "data": {"source": "shapes", "size": 97}, "backbone": {"name": "small"}}
    values |= {"targets": {"table1": {"methods": ["own"]}}, "methods": {"own": {"network": case}}}
    with pytest.raises(ParamsError, match=f"methods.own: .*{words}"):
        resolve([("test", values)])
