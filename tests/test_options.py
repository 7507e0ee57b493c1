"""Every value of every option of a method, once through the real steps on a tiny data set."""

from __future__ import annotations

import json
import math
import types
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from learning import make_job, prepare, sections

from i2r.config import schema as params
from i2r.config.schema import GRAD_CAM, ParamsError
from i2r.data.voc import IMAGENET_CLASSES, VOC_CLASSES
from i2r.engine.inputs import class_table, resized
from i2r.nets.output import Output
from i2r.nets.pmgm.priors import PRIORS
from i2r.pipeline.jobs import JobError
from i2r.pipeline.plan import CAM
from i2r.steps import baselines, evaluate, train

TINY = {  # one step, two episodes
    "data": {"min_class_images": 6, "shapes": {"train_images": 120, "val_images": 200, "seed": 0}},
    "base_learner": {"steps": 1},
    "cam_head": {"steps": 1},
    "train": {"steps": 1, "batch": 2},
    "evaluate": {"episodes": 2},
    "baselines": {"threshold_episodes": 2},
    "report": {"pictures": 1, "bootstrap": 2},
}
METHOD = params.Method.model_fields


def words(section: type[params.Section], name: str) -> list[Any]:
    """The values of an option that has a fixed set of them; numbers have none."""
    kind = section.model_fields[name].annotation
    found: list[Any] = []
    for part in get_args(kind) if isinstance(kind, types.UnionType) else (kind,):
        if part is bool:
            found += [True, False]
        elif get_origin(part) is Literal:
            found += get_args(part)
    return found


def method_cases() -> list[dict[str, Any]]:
    cams = [
        (cam, layer) for cam in words(params.Method, "cam") for layer in words(params.Method, "cam_layer")
    ]
    cases = [{"cam": cam, "cam_layer": layer} for cam, layer in cams if (cam, layer) != ("cam", "layer3")]
    cases += [{"cam": cam, "cam_backend": "grad-cam"} for cam in GRAD_CAM]
    cases += [{"delta": 0.3}, {"delta": 0.0}, {"delta": 1.0}]
    cases += [{"prior": prior} for prior in (*PRIORS, *("+".join(pair) for pair in combinations(PRIORS, 2)))]
    cases += [{"blocks": blocks, "cross": cross} for blocks in (1, 2, 3) for cross in range(blocks + 1)]
    cases += [{"support_branch": False, "cross": cross} for cross in (0, 1)]
    cases += [
        {"network": "bam", "prior": prior, "ensemble": on}
        for prior in ("bam", "pmgm")
        for on in (True, False)
    ]
    cases += [{"mask_test": "cyctr", "mask": mask} for mask in words(params.Method, "mask")]
    for name in METHOD:
        if name not in ("cam", "cam_layer", "cam_backend", "network", "mask_test", "prior"):
            cases += [{name: value} for value in words(params.Method, name)]
    return cases


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
    assert scores["episodes"] == 2 and 0 <= scores["miou"] <= 100 and math.isfinite(scores["prior"]["bce"])
    return scores


def test_every_option_with_fixed_values_is_swept():
    swept: dict[str, set] = {}
    for case in method_cases():
        for name, value in case.items():
            swept.setdefault(name, set()).add(value)
    for name in METHOD:
        missed = set(words(params.Method, name)) - swept.get(name, set())
        missed -= set(sections()["method"].values())  # the committed value runs with every other case
        assert not missed, f"method.{name}: {missed}"


@pytest.mark.slow
@pytest.mark.parametrize("case", method_cases(), ids=label)
def test_method_options_train_and_evaluate(inputs, tmp_path, case):
    shot, made = inputs
    scores = steps(tmp_path, shot, made, method=case)
    options = params.Method(**{**sections()["method"], **case})
    if options.network == "i2r" and options.cross and options.mask != "none":
        assert len(scores["mask_ratio"]) == options.cross
    if case.keys() <= set(CAM):
        job = make_job(tmp_path, "baselines", made, shot=shot, **{**TINY, "method": case})
        assert all(value is not None for value in baselines.run(job).values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scoring", "tta"])
def test_evaluation_options(inputs, tmp_path, name):
    shot, made = inputs
    for value in words(params.Evaluate, name):
        steps(tmp_path / value, shot, made, evaluate={name: value})


@pytest.mark.slow
def test_views_and_epochs(inputs, tmp_path):
    """Fresh views go the other way through the encoder; an epoch is a pass over the training list."""
    shot, made = inputs
    augment = sections()["train"]["augment"] | {"views": 0}
    steps(tmp_path / "table", shot, made, train={"augment": augment}, method={"class_source": "table"})
    batch = len(json.loads((made["lists"] / "lists.json").read_text())["train"]) // 2
    steps(tmp_path / "epochs", shot, made, train={"steps": "1 epochs", "batch": batch})
    assert len((tmp_path / "epochs/train/metrics.jsonl").read_text().splitlines()) == 2


# --- what the options mean ---------------------------------------------------------------------------------


def test_epochs_are_passes_over_the_images():
    schedule = params.Train(**sections()["train"] | {"steps": "3 epochs", "batch": 8})
    assert schedule.over(100).steps == 37 and schedule.over(2).steps == 1
    assert params.Train(**sections()["train"] | {"steps": "12"}).over(100).steps == 12
    for wrong in ("many", "0", -1, "0 epochs", 1.5, True):
        with pytest.raises(ValueError, match="number of steps"):
            params.Train(**sections()["train"] | {"steps": wrong})


def test_sides_of_test_time_augmentation():
    assert evaluate.tta_sides("none", 473) == []
    assert evaluate.tta_sides("scales", 473) == [(377,), (593,)]
    assert evaluate.tta_sides("released", 473) == [(377,), (377, 473)]
    picture = (torch.rand(3, 97, 97), torch.randint(0, 3, (97, 97)).to(torch.uint8))
    image, mask = resized(lambda view: picture, 81, 97)("view")
    assert image.shape == (3, 97, 97) and mask.shape == (97, 97)
    assert torch.equal(mask, picture[1]) and not torch.allclose(image, picture[0], atol=0.01)


def test_final_logits_are_means_over_the_passes():
    def head(maps):
        return Output(final_logits=maps, meta_logits=maps)

    first, second = torch.rand(2, 2, 9, 9), torch.rand(2, 2, 17, 17)
    other = types.SimpleNamespace(inputs=lambda part: second)
    assert torch.equal(evaluate.augmented(head, [], [], first).final_logits, first)
    mean = evaluate.augmented(head, [other], [], first).final_logits
    torch.testing.assert_close(mean, (first + second[..., ::2, ::2]) / 2)


def test_class_tables():
    assert class_table(list("abc"), 3).tolist() == [0, 1, 2]
    assert class_table(list(VOC_CLASSES), 1000).tolist()[:3] == [404, 671, 13]
    assert len(set(IMAGENET_CLASSES.values())) == 20
    for names, classes in ((["star"], 1000), (list(VOC_CLASSES), 30)):
        with pytest.raises(JobError, match="class_source: table"):
            class_table(names, classes)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ({"blocks": 2, "cross": 3}, r"cross \(3\) cannot be larger than blocks \(2\)"),
        ({"cam": "cam", "cam_layer": "layer3"}, "cam_layer must be layer4 for cam: cam"),
        ({"cam": "bagcam", "cam_backend": "grad-cam"}, "cam: bagcam .* cam_backend: grad-cam"),
        ({"prior": "pmgm+pmgm"}, "prior must be one of"),
        ({"prior": "pmgm+bam+mean"}, "prior must be one of"),
        ({"delta": 1.5}, "delta"),
        ({"mask": "dcim"}, "mask"),
        ({"blocks": 0}, "blocks"),
    ],
    ids=lambda case: label(case) if isinstance(case, dict) else "",
)
def test_impossible_options_are_refused_by_name(case, words):
    values = sections()
    values["methods"]["i2r"] = case
    with pytest.raises(ParamsError, match=f"methods.i2r: .*{words}"):
        params.check(values)
