"""Scores compared with the published implementations (golden/metrics.json) and with slow definitions."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from i2r.data.transforms import Placement
from i2r.metrics import prior_maps
from i2r.metrics import segmentation as scores

GOLDEN = json.loads((Path(__file__).parent / "golden" / "metrics.json").read_text())
CLASSES = range(5)


def one_hot(prediction: torch.Tensor, classes: int) -> torch.Tensor:
    return F.one_hot(prediction, classes).permute(2, 0, 1).float()


def published_miou(result: scores.Scores) -> float:
    """The published mean, in which a class without episodes counts as 0."""
    return sum(result.iou.values()) / 5


def bam_scores(part: dict, kind: str) -> scores.Scores:
    """Score `final` or `meta` as BAM's validation does."""
    counts = []
    for episode in part["episodes"]:
        label = torch.tensor(episode["label"])
        place = Placement(*label.shape, 0, 0)
        target = scores.target_on_grid("bam", label, label, place)
        if f"logits_{kind}" in episode:
            prediction = scores.predict_on_grid("bam", torch.tensor(episode[f"logits_{kind}"]), place)
        else:
            prediction = torch.tensor(episode[f"pred_{kind}"])
        counts.append(scores.binary_counts(prediction, target))
    return scores.score(CLASSES, [e["cls"] for e in part["episodes"]], np.array(counts))


@pytest.mark.parametrize("name", ["A", "B", "C_logits_5x5"])
@pytest.mark.parametrize("kind", ["final", "meta"])
def test_equals_bam(name, kind):
    part, golden = GOLDEN[name], GOLDEN[name]["bam_validate"]
    result = bam_scores(part, kind)
    assert published_miou(result) == pytest.approx(golden[f"miou_{kind}"], abs=2e-6)
    assert result.fb_iou == pytest.approx(golden[f"fb_iou_{kind}"], abs=2e-6)
    printed = golden["printed_to_4_decimals"][f"class_iou_{kind}"]
    assert [result.iou.get(c, 0.0) for c in CLASSES] == pytest.approx(printed, abs=6e-5)


@pytest.mark.parametrize("name", ["A", "B", "C_logits_5x5"])
def test_base_miou_equals_bam(name):
    sums = torch.zeros(3, 16)
    for episode in GOLDEN[name]["episodes"]:
        target = scores.pad_square(torch.tensor(episode["label_base"]))
        if "logits_base" in episode:
            place = Placement(*torch.tensor(episode["label_base"]).shape, 0, 0)
            prediction = scores.predict_on_grid("bam", torch.tensor(episode["logits_base"]), place)
        else:
            prediction = torch.tensor(episode["pred_base"])
        sums += torch.stack(scores.class_counts(prediction, target, 16))
    present = sums[2, 1:] > 0
    miou = (sums[0, 1:] / (sums[1, 1:] + scores.EPSILON)).sum() / present.sum()
    assert float(miou) == pytest.approx(GOLDEN[name]["bam_validate"]["miou_base"], abs=2e-6)


@pytest.mark.parametrize("name", ["A", "B"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", ["final", "meta"])
def test_equals_released_i2r(name, padded, kind):
    part = GOLDEN[name]
    golden = part[f"i2r_validation_ori_resize_{str(padded).lower()}"]
    counts = []
    for episode, original in zip(part["i2r_episodes"], part["episodes"], strict=True):
        place = Placement(*torch.tensor(original["label"]).shape, 0, 0)
        target = scores.target_on_grid("released", None, torch.tensor(episode["network_size_label"]), place)
        logits = one_hot(torch.tensor(episode[f"network_size_pred_{kind}"]), 2)
        # its ori_resize pads the squeezed label but stretches the prediction, so their grids differ
        prediction = scores.predict_on_grid("bam" if padded else "released", logits, place)
        counts.append(scores.binary_counts(prediction, scores.pad_square(target) if padded else target))
    result = scores.score(CLASSES, [e["cls"] for e in part["episodes"]], np.array(counts))
    suffix = "" if kind == "final" else "_m"
    assert 100 * published_miou(result) == pytest.approx(golden["logged"][f"val/mIoU{suffix}"], abs=2e-4)
    assert 100 * result.fb_iou == pytest.approx(golden["logged"][f"val/FBIoU{suffix}"], abs=2e-4)
    sums = scores.class_sums(CLASSES, [e["cls"] for e in part["episodes"]], np.array(counts))
    assert sums[:, 0].tolist() == golden[f"class_intersection_{kind}"]
    assert sums[:, 1].tolist() == golden[f"class_union_{kind}"]


def test_class_without_an_episode_is_left_out_not_zero():
    result = scores.score([1, 2], [1, 1], np.array([[3, 4, 5, 6], [1, 4, 5, 6]]))
    assert result.iou == {1: pytest.approx(0.5)} and result.queries == {1: 2, 2: 0}
    assert result.miou == pytest.approx(0.5)
    assert np.isnan(scores.score([], [], np.zeros((0, 4))).miou)


def test_unknown_pixels_count_nowhere():
    target = torch.tensor([[1, 0, 255, 255]])
    assert scores.binary_counts(torch.tensor([[1, 0, 1, 0]]), target) == (1, 1, 1, 1)


def test_two_classes_are_counted_as_any_number_of_classes():
    """The quick ways for two classes give what counting by class and argmax give, with equal logits too."""
    random = torch.Generator().manual_seed(0)
    for _ in range(50):
        size = torch.randint(1, 30, (2,), generator=random).tolist()
        logits = torch.randint(0, 4, (2, *size), generator=random).float()
        target = torch.tensor([0, 1, 255], dtype=torch.uint8)[torch.randint(0, 3, size, generator=random)]
        prediction = scores.largest(logits)
        assert torch.equal(prediction, logits.argmax(0))
        inter, union, _ = scores.class_counts(prediction, target, 2)
        assert scores.binary_counts(prediction, target) == (inter[1], union[1], inter[0], union[0])


def test_original_grid_cuts_the_padding_off():
    """A prediction that is correct in the image and wrong in the padding scores 1."""
    mask = torch.zeros(60, 100, dtype=torch.uint8)
    mask[20:40, 30:70] = 1
    place = Placement(60, 100, 48, 88)  # longer side to 97, both sides floored to multiples of 8
    inside = F.interpolate(mask[None, None].float(), (48, 88), mode="bilinear")[0, 0]
    logits = torch.full((2, 97, 97), 0.5)
    logits[1] = 1.0
    logits[1, :48, :88] = inside
    counts = scores.binary_counts(scores.predict_on_grid("original", logits, place), mask)
    assert counts.inter_fg / counts.union_fg > 0.94
    stretched = scores.predict_on_grid("bam", logits, place)
    counts = scores.binary_counts(stretched, scores.target_on_grid("bam", mask, mask, place))
    assert counts.inter_fg / counts.union_fg < 0.94  # corners aligned on the padded square: a few pixels off


def slow_average_precision(prior, target):
    order = np.unique(prior[target != 255])[::-1]
    truth, total, recall = target == 1, 0.0, 0.0
    for value in order:
        chosen = (prior >= value) & (target != 255)
        gained = (chosen & truth).sum() / truth.sum()
        total += (gained - recall) * (chosen & truth).sum() / chosen.sum()
        recall = gained
    return total


def test_prior_measures():
    rng = np.random.default_rng(1)
    target = rng.choice([0, 1, 255], (20, 20), p=[0.6, 0.3, 0.1])
    prior = np.clip(np.round(0.3 * (target == 1) + rng.random((20, 20)) * 0.7, 2), 0, 1)
    prior[:3] = 0
    hist = prior_maps.histogram(torch.tensor(prior), torch.tensor(target))
    assert hist.sum() == (target != 255).sum()
    assert prior_maps.average_precision(hist) == pytest.approx(
        slow_average_precision(prior, target), abs=1e-9
    )
    threshold, best = prior_maps.best_threshold({1: hist})
    chosen = (prior >= threshold) & (target != 255)
    assert best == pytest.approx((chosen & (target == 1)).sum() / (chosen | (target == 1)).sum(), abs=1e-9)
    for other in np.unique(prior):
        chosen = (prior >= other) & (target != 255)
        assert (chosen & (target == 1)).sum() / (chosen | (target == 1)).sum() <= best + 1e-9
    keep = target != 255
    p = np.clip(prior[keep], 1e-44, 1)
    terms = np.where(target[keep] == 1, np.log(p), np.log(np.clip(1 - prior[keep], 1e-44, 1))).clip(-100)
    assert prior_maps.prior_bce(torch.tensor(prior), torch.tensor(target)) == pytest.approx(
        -terms.mean(), rel=1e-4
    )


def test_everything_and_nothing():
    target = torch.tensor([[1, 1, 0, 0]])
    perfect = prior_maps.histogram(torch.tensor([[1.0, 1.0, 0.0, 0.0]]), target)
    assert prior_maps.average_precision(perfect) == 1.0
    assert np.isnan(prior_maps.average_precision(prior_maps.histogram(torch.zeros(1, 4), torch.zeros(1, 4))))
    assert prior_maps.prior_bce(torch.zeros(1, 4), torch.zeros(1, 4)) == 0.0
    with pytest.raises(ValueError, match=r"evaluate\.scoring"):
        scores.target_on_grid("round", target, target, Placement(1, 4, 1, 4))
