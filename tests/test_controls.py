"""Controls: episodes with other supports, and what they measure."""

from __future__ import annotations

import csv
import json

import fake_jobs
import numpy as np
import pandas as pd
import pytest
import torch
from learning import make_job, trained

from i2r.config.networks import ATTENTION_MASKS
from i2r.data.control_episodes import KINDS, controls, images_by_class
from i2r.data.episodes import Episode
from i2r.engine.attention_probe import AttentionProbe, wrong_mass
from i2r.engine.images import SHUFFLED, View, shuffled_reader
from i2r.metrics import segmentation
from i2r.nets.decoder.attention import CrossAttention, Labels
from i2r.report import controls as shown
from i2r.steps import controls as step
from i2r.steps import evaluate

PIXELS = {
    "q": {"1": 500, "2": 400, "3": 20},
    "a": {"1": 500},
    "b": {"2": 300},
    "c": {"4": 300},
    "d": {"5": 300, "1": 10},
}


OWN = Episode("q", ("a",), 1)


def made(episode=OWN, seed=0, index=0):
    return {one.kind: one for one in controls(episode, index, images_by_class(PIXELS, 100), seed)}


def test_each_control_has_the_supports_that_it_says():
    found = made()
    assert list(found) == list(KINDS) and all(one.asked == 1 for one in found.values())
    assert found["right"].episode == found["shuffled"].episode == OWN
    assert found["present"].episode == Episode("q", ("b",), 2)  # class 3 is too small
    assert found["itself"].episode == Episode("q", ("q",), 1)
    assert {made(index=index)["absent"].episode.cls for index in range(20)} == {4, 5}
    assert made(index=7) == made(index=7)


def test_a_control_that_the_images_do_not_allow_is_left_out():
    assert "present" not in made(Episode("a", ("q",), 1))
    assert "present" not in made(Episode("q", ("a", "d"), 1))  # no second image of class 2
    assert made(Episode("q", ("a", "d"), 1))["itself"].episode.supports == ("q", "q")


@pytest.mark.parametrize(("kind", "no_label"), [(torch.uint8, 255), (torch.int16, -1)])
def test_a_shuffled_mask_keeps_its_pixels_and_the_unknown_ones(kind, no_label):
    mask = torch.zeros(20, 20, dtype=kind)
    mask[:5], mask[15:] = 3, no_label
    read = shuffled_reader(lambda view: (torch.zeros(3, 20, 20), mask))
    same, other = read(View("a"))[1], read(View("a", SHUFFLED))[1]
    assert torch.equal(same, mask) and not torch.equal(other, mask)
    assert torch.equal(other == no_label, mask == no_label) and (other == 3).sum() == 100
    assert torch.equal(other, read(View("a", SHUFFLED))[1])


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("controls")
    inputs = trained(folder)
    evaluated, job = (make_job(folder, name, inputs) for name in ("evaluate", "controls"))
    evaluate.run(evaluated)
    step.run(job)
    return evaluated, job


def test_own_supports_score_as_in_the_evaluation(done):
    evaluated, job = done
    rows = pd.read_csv(job.out / "controls.csv")
    own = rows[rows["kind"] == "right"].set_index("index")
    theirs = pd.read_csv(evaluated.out / "episodes.csv").set_index("index")
    names = list(segmentation.Counts._fields)
    pd.testing.assert_frame_equal(own[names], theirs.loc[own.index, names])
    counted = json.loads((job.out / "scores.json").read_text())["episodes"]
    assert counted["right"] == counted["itself"] == counted["objects"] == len(theirs)
    assert counted["present"] > 0 and counted["absent"] > 0 and counted["table"] == len(theirs)


def test_masks_do_what_they_are_for(done):
    masks = json.loads((done[1].out / "scores.json").read_text())["masks"]
    assert set(masks) == {"none", *ATTENTION_MASKS}
    none, dicm = masks["none"], masks["dicm"]
    assert none["wrong_mass"] == pytest.approx(none["wrong_mass_unmasked"])
    assert dicm["disagree"] == pytest.approx(none["disagree"], abs=0.05) and 0 < none["disagree"] < 1
    assert dicm["wrong_mass"] < dicm["wrong_mass_unmasked"]


def test_measuring_changes_nothing():
    torch.manual_seed(0)
    block = CrossAttention(8, 0.0)
    query, support = torch.randn(2, 1, 9, 8), torch.randn(2, 3, 9, 8)
    labels = Labels(torch.rand(2, 3, 9) < 0.5, torch.rand(2, 1, 9) < 0.5, None)
    torch.manual_seed(1)
    alone = block(query, support, labels, "random")
    torch.manual_seed(1)
    with AttentionProbe(block) as probe:
        beside = block(query, support, labels, "random")
    assert torch.equal(alone[0], beside[0]) and len(probe.disagree) == 1 and not block._forward_hooks
    uniform = torch.full((1, 1, 2, 4), 0.25)
    own, other = torch.tensor([[[True, True, True, False]]]), torch.tensor([[[True, False]]])
    mass = wrong_mass(uniform, own, other, torch.ones_like(other))
    assert mass == pytest.approx((0.25 + 0.75) / 2)


def test_wrong_supports_are_scored_for_the_asked_and_the_shown_class(done):
    with (done[1].out / "controls.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        wrong = row["kind"] in ("present", "absent")
        assert (row["shown"] != row["class"]) == wrong
        if row["kind"] == "absent":
            assert row["shown_inter"] == "0"
        if row["kind"] == "objects":  # all true pixels of the class are among all objects
            test = next(r for r in rows if r["kind"] == "test objects" and r["index"] == row["index"])
            assert int(row["inter_fg"]) == int(test["inter_fg"]) and int(row["union_fg"]) >= int(
                test["union_fg"]
            )


def control_rows(kind, inter, shown=(0, 0)):
    columns = {
        "index": range(8),
        "class": [1, 2] * 4,
        "shown": [3, 4] * 4,
        "query": [f"q{n}" for n in range(8)],
    }
    numbers = {
        "inter_fg": inter,
        "union_fg": 100,
        "shown_inter": shown[0],
        "shown_union": shown[1],
        "marked": 0.1,
    }
    return pd.DataFrame(columns | numbers | {"kind": kind})


def test_the_share_that_is_lost():
    frame = pd.concat([control_rows("right", 80), control_rows("present", 20, (30, 60))])
    assert shown.measured([frame], "present", "lost", 200).value == pytest.approx(75)
    assert shown.measured([frame], "present", "shown", 200).value == pytest.approx(50)
    assert shown.measured([frame], "present", "miou", 200).value == pytest.approx(20)
    assert shown.measured([frame], "itself", "miou", 200) is None
    ignoring = pd.concat([control_rows("right", 80), control_rows("present", 80)])
    assert shown.measured([ignoring], "present", "lost", 200).value == pytest.approx(0)
    one = pd.concat([control_rows("right", [80, *[0] * 7]), control_rows("present", [20, *[0] * 7])])
    found = shown.measured([one], "present", "lost", 200)  # some samples have nothing to lose
    assert found.value == pytest.approx(75) and np.isnan(found.samples.interval()).all()


@pytest.mark.filterwarnings("error")
def test_a_share_of_nothing_has_no_interval():
    """Of a network that finds the object in one image alone, nothing can be lost where that one is not drawn."""
    frame = pd.concat([control_rows("right", 80), control_rows("present", 20)])
    frame.loc[(frame["kind"] == "right") & (frame["index"] > frame["index"].min()), "inter_fg"] = 0
    lost = shown.measured([frame], "present", "lost", 200)
    assert np.isfinite(lost.value) and np.isnan(lost.samples.interval()).all()


def test_the_report_shows_controls(tmp_path):
    folder = fake_jobs.report(tmp_path / "results", targets={"table1": {"methods": ["i2r"], "folds": [0, 1]}})
    table = pd.read_csv(folder / "controls.csv").set_index(["id", "kind", "measure"])
    assert {"i2r", "oracle"} == set(table.index.get_level_values(0))
    assert table.at[("i2r", "present", "lost"), "value"] == pytest.approx(90, abs=5)
    assert table.at[("i2r", "right", "miou"), "folds"] == 2
    page = (folder / "report.html").read_text()
    assert "i2r run controls --spec" in page
    assert "Is the support used?" in page and "of its mIoU when the supports show another class" in page
    assert "oracle: all labelled objects" in page


def test_an_ablation_has_no_controls():
    plan = fake_jobs.planned(targets={"table3": {"methods": ["i2r"], "folds": [0], "ablation": True}})
    assert not any(spec.step == "controls" for spec in plan.jobs.values())
    plan = fake_jobs.planned(evaluate={"controls": 0})
    assert not any(spec.step == "controls" for spec in plan.jobs.values())
    seeds = fake_jobs.planned(evaluate={"seeds": [3, 4]})
    assert {spec.args["eval_seed"] for spec in seeds.jobs.values() if spec.step == "controls"} == {3}
