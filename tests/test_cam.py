"""CAM: published numbers, pytorch-grad-cam, slow references, and empty maps."""

import copy
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from networks import backbone_params, encoder, episode
from seeded import options

from i2r.config.networks import CAMS, IN_PACKAGE
from i2r.nets.backbone.base import build_backbone
from i2r.nets.pmgm.cam import (
    adaptive_thresholds,
    cam_maps,
    cam_maps_and_layer4,
    cam_masks,
    class_gradient,
    combine,
    normalise,
)

GOLDEN = Path(__file__).parent / "golden" / "i2r_cams.npz"
PUBLISHED = {
    "XGradCAM": "xgradcam",
    "HiResCAM": "hirescam",
    "GradCAM": "gradcam",
    "GradCAMPlusPlus": "gradcam++",
    "BagCAM": "bagcam",
    "LayerCAM": "layercam",
}
SIDE = 161


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def seeded():
    """x3 of query and support of the golden episode, one image at a time, their masks and class ids."""
    net = encoder("i2r")
    inputs = episode("four", 2, 1)
    query, supports, masks = inputs["query"], inputs["supports"], inputs["masks"]
    with torch.no_grad():
        x3 = {
            "query": [net.images(image[None]).x3 for image in query],
            "support": [net.images(image).x3 for image in supports],
        }
        logits = [net.support(x, mask)[1] for x, mask in zip(x3["support"], masks, strict=True)]
    return net, x3, masks[:, 0], torch.cat(logits)


@pytest.fixture(scope="module")
def toy():
    """A small backbone with varied norms, its x3 and class ids of four images of 40x56 pixels."""
    torch.manual_seed(0)
    net = build_backbone(backbone_params("small"), 7).eval().requires_grad_(False)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    images = torch.randn(4, 3, 40, 56)
    return net, images, net.to_layer3(images)[1], torch.tensor([0, 3, 6, 3])


def relative(ours, reference):
    reference = torch.as_tensor(reference)
    return ((ours - reference).abs().max() / reference.abs().max()).item()


def test_golden_class_of_the_episode(golden, seeded):
    *_, logits = seeded
    assert logits.argmax(1).tolist() == golden["class_ids"].tolist()
    assert relative(logits[:, :20], golden["class_logits_c20"]) < 1e-5
    top = logits.topk(2).values
    assert torch.allclose(top[:, 0] - top[:, 1], torch.tensor(golden["class_logit_gap"]), rtol=1e-4)


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("layer", ["layer3", "layer4"])
def test_golden_maps(golden, seeded, name, layer):
    net, x3, _, logits = seeded
    for which, images in x3.items():
        ids = logits.argmax(1)[:, None]
        maps = [net.cams(x, i, PUBLISHED[name], layer) for x, i in zip(images, ids, strict=True)]
        maps = torch.cat(maps)
        assert relative(maps, golden[f"{name}/{layer}/{which}/low"]) < 2e-5
        full = normalise(maps, (SIDE, SIDE))
        assert relative(full[:, ::4, ::4], golden[f"{name}/{layer}/{which}/final_s4"]) < 2e-5


@pytest.mark.parametrize("name", PUBLISHED)
def test_golden_masks(golden, seeded, name):
    net, x3, masks, logits = seeded
    full = {}
    for which, images in x3.items():
        ids = logits.argmax(1)[:, None]
        maps = [net.cams(x, i, PUBLISHED[name], "layer3") for x, i in zip(images, ids, strict=True)]
        full[which] = normalise(torch.cat(maps), (SIDE, SIDE))
    np.testing.assert_array_equal(
        adaptive_thresholds(full["support"], masks), golden[f"{name}/adaptive/threshold"].astype(np.float32)
    )
    for delta, key in ((0.7, "thr0.7"), ("adaptive", "adaptive")):
        plus = cam_masks(full["query"], full["support"], masks, delta, ">")
        for which, ours in zip(("query", "support"), plus, strict=True):
            wrong = (ours.numpy() != golden[f"{name}/{key}/{which}"].astype(bool)).mean()
            assert wrong <= 5e-4


@pytest.mark.parametrize("layer", ["layer3", "layer4"])
@pytest.mark.parametrize("name", [name for name in PUBLISHED if name != "BagCAM"])
@pytest.mark.parametrize("backbone", ["small", "squeezenet1_1"])
def test_agrees_with_pytorch_grad_cam(toy, backbone, name, layer):
    net, images, x3, ids = toy
    if backbone != "small":
        torch.manual_seed(1)
        net = build_backbone(backbone_params(backbone), 7).eval()
        x3 = net.to_layer3(images)[1].detach()
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    targets = [ClassifierOutputTarget(i) for i in ids.tolist()]
    net = copy.deepcopy(net).requires_grad_(True)
    method = getattr(pytorch_grad_cam, name)
    with (
        method(model=net, target_layers=[getattr(net, layer)]) as theirs,
        patch.object(theirs, "get_target_width_height", return_value=None),  # keep the layer's own grid
    ):
        expected = theirs(input_tensor=images, targets=targets)
    maps = cam_maps(PUBLISHED[name], layer, net, x3, ids)
    for _ in range(2):  # the package normalises the map of each layer, then their mean
        maps = maps - maps.amin((1, 2), keepdim=True)
        maps = maps / (maps.amax((1, 2), keepdim=True) + 1e-7)
    assert (
        np.abs(maps.numpy() - expected).max() < 2e-4
    )  # its XGradCAM also adds 1e-7, but sums in another order


@pytest.mark.parametrize("layer", ["layer3", "layer4"])
@pytest.mark.parametrize("method", IN_PACKAGE)
def test_backends_give_the_same_numbers(toy, method, layer):
    net, _, x3, ids = toy
    with torch.no_grad():
        native, package = (
            cam_maps_and_layer4(method, layer, net, x3, ids, backend) for backend in ("native", "grad-cam")
        )
    full = [normalise(maps, (40, 56)) for maps, _ in (native, package)]
    torch.testing.assert_close(*full, atol=2e-4, rtol=0)
    torch.testing.assert_close(native[1], package[1])
    assert x3.grad is None and not package[0].requires_grad


@pytest.mark.parametrize("method", [method for method in CAMS if method not in IN_PACKAGE])
def test_a_method_that_the_package_lacks_is_refused_naming_both_keys(method):
    with pytest.raises(ValueError, match=f"cam: {method} .*cam_backend: grad-cam"):
        options(cam=method, cam_layer="layer4", cam_backend="grad-cam")


@pytest.mark.parametrize("method", [method for method in CAMS if method != "cam"])
def test_closed_form_at_layer4_is_the_gradient(toy, method):
    net, _, x3, ids = toy
    score = CAMS[method].score
    x4 = net.layer4(x3).requires_grad_()
    scores = {
        "logit": lambda x: x,
        "probability": lambda x: x.softmax(1),
        "log probability": lambda x: x.softmax(1).log(),
    }[score](net.logits(x4))
    (gradient,) = torch.autograd.grad(scores[range(4), ids].sum(), x4)
    assert relative(class_gradient(net, "layer4", x3, ids, score)[1], gradient) < 1e-5
    expected = combine(method, x4.detach(), gradient)
    assert relative(cam_maps(method, "layer4", net, x3, ids), expected) < 1e-5


def test_at_layer4_four_methods_are_one_and_nothing_runs_backward(toy):
    net, _, x3, ids = toy
    with patch("torch.autograd.grad", side_effect=AssertionError("a backward ran")):
        maps = {m: cam_maps(m, "layer4", net, x3, ids) for m in ("cam", "gradcam", "hirescam", "xgradcam")}
    weights = net.fc.weight[ids] / maps["cam"][0].numel()
    slow = torch.stack(
        [torch.relu((w[:, None, None] * x).sum(0)) for w, x in zip(weights, net.layer4(x3), strict=True)]
    )
    for ours in maps.values():
        assert relative(ours, slow) < 1e-4


@pytest.mark.parametrize("method", ["bagcam", "bagcam-original"])
def test_bagcam_is_its_bag_of_regional_localisers(toy, method):
    net, _, x3, ids = toy
    a, g, _ = class_gradient(net, "layer3", x3, ids, CAMS[method].score)
    n, channels, height, width = a.shape
    a, g = a.flatten(2).double(), g.flatten(2).double()
    slow = torch.zeros(n, height * width, dtype=torch.float64)
    for image in range(n):
        for channel in range(channels):
            t = g[image, channel] * a[image, channel]
            localisers = [(t[m] + 1) * t for m in range(height * width)]  # one of each cell, on all cells
            slow[image] += torch.relu(sum(localisers) / len(localisers))
    maps = cam_maps(method, "layer3", net, x3, ids)
    assert relative(maps.flatten(1).double(), slow) < 1e-5


def test_bagcam_takes_the_gradient_of_its_score(toy):
    net, _, x3, ids = toy
    logit, probability, log = (
        class_gradient(net, "layer3", x3, ids, s)[1] for s in ("logit", "probability", "log probability")
    )
    p = net.logits(net.layer4(x3)).softmax(1)[range(4), ids][:, None, None, None]
    assert relative(probability, p * log) < 1e-4
    assert relative(log, logit) > 1e-2


@pytest.mark.parametrize("method", CAMS)
def test_images_do_not_mix_and_nothing_keeps_a_graph(toy, method):
    net, _, x3, ids = toy
    layer = "layer4" if method == "cam" else "layer3"
    with torch.no_grad():
        together = cam_maps(method, layer, net, x3, ids)
    alone = torch.cat([cam_maps(method, layer, net, x3[i : i + 1], ids[i : i + 1]) for i in range(4)])
    assert relative(together, alone) < 1e-4
    assert not together.requires_grad and together.shape == (4, *x3.shape[-2:]) and (together >= 0).all()
    assert x3.grad is None and not x3.requires_grad
    assert all(weight.grad is None for weight in net.parameters())


MAPS = [(method, layer) for method in CAMS for layer in ("layer3", "layer4")]
MAPS.remove(("cam", "layer3"))  # the classic CAM exists at layer4 only


@pytest.mark.parametrize(("method", "layer"), MAPS)
def test_an_empty_image_gives_a_finite_map(toy, method, layer):
    net, _, x3, ids = toy
    maps = cam_maps(method, layer, net, torch.zeros_like(x3), ids)
    assert maps.isfinite().all()
    full = normalise(maps, (40, 56))
    assert full.isfinite().all() and full.min() >= 0 and full.max() <= 1


def test_what_does_not_exist_is_refused(toy):
    net, _, x3, ids = toy
    with pytest.raises(ValueError, match="cam_layer must be layer4 for cam: cam"):
        cam_maps("cam", "layer3", net, x3, ids)
    with pytest.raises(ValueError, match="xgradcam, hirescam"):
        cam_maps("scorecam", "layer3", net, x3, ids)
    with pytest.raises(ValueError, match="layer3 or layer4"):
        cam_maps("gradcam", "layer2", net, x3, ids)


def test_normalise_spans_0_to_1_and_a_constant_map_is_zeros():
    maps = torch.rand(2, 3, 5, 4) * 1e-3 + 7
    maps[1, 2] = 3
    full = normalise(maps, (17, 21))
    assert full.shape == (2, 3, 17, 21)
    assert (full.amin((-2, -1)) == 0).all()
    highest = full.amax((-2, -1))
    assert highest[1, 2] == 0 and (highest.flatten()[:5] == 1).all()


def test_thresholds_compare_as_asked():
    cam = torch.tensor([[[0.5, 0.7], [0.9, 0.0]]])
    cam = torch.where(cam == 0.7, torch.tensor(0.7), cam)
    mask = torch.ones(1, 2, 2)
    at_least, _ = cam_masks(cam, cam, mask, 0.7, ">=")
    above, _ = cam_masks(cam, cam, mask, 0.7, ">")
    assert at_least.sum() == 2 and above.sum() == 1
    assert cam_masks(torch.zeros_like(cam), cam, mask, 0.7)[0].sum() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adaptive_threshold_equals_the_loop_over_thresholds(dtype):
    torch.manual_seed(0)
    cam = torch.rand(3, 2, 33, 27, dtype=dtype)
    cam[0] = (cam[0] * 50).round().mul(0.02)  # values at the thresholds themselves
    cam[1, 0] = 0
    mask = (cam + 0.5 * torch.rand_like(cam) > 0.9).long()
    mask[2, 0, :5] = 255
    steps = (torch.arange(51, dtype=torch.float64) * 0.02).float()
    plus, truth = cam > steps.view(51, 1, 1, 1, 1), mask == 1
    iou = (plus & truth).sum((-2, -1)) / (plus | truth).sum((-2, -1)).clamp(min=1).double()
    expected = steps[iou.argmax(0)].to(dtype)
    assert len(expected.unique()) > 2
    assert torch.equal(adaptive_thresholds(cam, mask), expected)
    assert torch.equal(adaptive_thresholds(cam[0, 0], mask[0, 0]), expected[0, 0])


def test_adaptive_threshold_is_the_first_best_of_a_slow_search():
    torch.manual_seed(0)
    cam, mask = torch.rand(2, 3, 9, 7), torch.randint(0, 3, (2, 3, 9, 7))
    mask[mask == 2] = 255
    mask[0, 0], mask[0, 1] = 0, 255  # no object: no union at threshold 1, IoU 0 everywhere
    ours = adaptive_thresholds(cam, mask)
    for index in np.ndindex(2, 3):
        best, at = -1.0, 0.0
        for k in range(51):
            plus, truth = cam[index].numpy() > np.float32(0.02 * k), mask[index].numpy() == 1
            union = (plus | truth).sum()
            iou = (plus & truth).sum() / union if union else 0.0
            if iou > best:
                best, at = iou, np.float32(0.02 * k)
        assert ours[index].item() == at
    assert ours[0, 0] == ours[0, 1] == 0
