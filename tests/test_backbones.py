"""Backbones, the base learner and their weights files."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from networks import BASES, backbone_params, encoder, episode, published
from safetensors.torch import save_file
from weights_by_seed import canonical

from i2r.config.schema import BACKBONES
from i2r.data.fetch import read_table
from i2r.data.transforms import normalise as standardise
from i2r.data.voc import read_image, read_list, read_mask
from i2r.nets.backbone.base import build_backbone
from i2r.nets.backbone.small import GradientChannels
from i2r.nets.backbone.torchvision_ops import torchvision
from i2r.nets.encoder import Encoder
from i2r.nets.io.weights import (
    WeightsError,
    load_backbone_tensors,
    load_backbone_weights,
    open_backbone,
    open_encoder,
    read_tensors,
)
from i2r.nets.pmgm.cam import normalise
from i2r.nets.pspnet import PSPNet

GRIDS = {  # layer2, layer3, layer4 at 97 x 129
    "small": [(25, 33), (13, 17), (13, 17)],
    "resnet50": [(13, 17), (7, 9), (4, 5)],
    "resnet50-bam": [(13, 17), (13, 17), (13, 17)],
    "vgg16-bam": [(6, 8), (6, 8), (6, 8)],
    "squeezenet1_1": [(12, 16), (6, 8), (6, 8)],
}


@pytest.mark.parametrize("name", GRIDS)
def test_grids_and_channels(name):
    net = build_backbone(backbone_params(name), classes=5).eval()
    with torch.no_grad():
        features = Encoder(net, PSPNet(net.channels[2], 3)).images(torch.randn(1, 3, 97, 129))
    for x, channels, grid in zip(
        features[:4], (*net.channels, 4), [*GRIDS[name], GRIDS[name][2]], strict=True
    ):
        assert x.shape == (1, channels, *grid)
    assert net.logits(features.x4).shape == (1, 5)


@pytest.mark.parametrize("name", ["resnet50", "squeezenet1_1"])
def test_logits_are_torchvision_s(name):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)(weights=None, num_classes=20).eval()
    ours = build_backbone(backbone_params(name)).eval()
    load_backbone_tensors(ours, theirs.state_dict(), name, "torchvision")
    images = torch.randn(2, 3, 75, 90)
    with torch.no_grad():
        torch.testing.assert_close(ours.classify(images), theirs(images), rtol=1e-4, atol=1e-5)


def test_vgg_layers_are_torchvision_s():
    torch.manual_seed(0)
    theirs = torchvision.models.vgg16_bn(weights=None, num_classes=2).eval()
    ours = build_backbone(backbone_params("vgg16-bam")).eval()
    load_backbone_tensors(ours, theirs.state_dict(), "vgg16-bam", "torchvision")
    assert ours.fc is None
    images = torch.randn(1, 3, 64, 80)
    with torch.no_grad():
        x2, x3 = ours.to_layer3(images)
        torch.testing.assert_close(ours.layer4(x3), theirs.features[:43](images))
        assert x2.shape[-2:] == x3.shape[-2:]
    with pytest.raises(ValueError, match="no classifier"):
        ours.classify(images)


def test_stride_stands_where_asked():
    for where, strides in (("3x3", ((1, 1), (2, 2))), ("1x1", ((2, 2), (1, 1)))):
        net = build_backbone(backbone_params("resnet50", stride_at=where))
        for layer in (net.layer2, net.layer3, net.layer4):
            assert (layer[0].conv1.stride, layer[0].conv2.stride) == strides
            assert all(block.conv2.stride == (1, 1) for block in layer[1:])


def test_every_block_of_a_dilated_layer_has_its_dilation():
    net = build_backbone(backbone_params("resnet50-bam"))
    for layer, dilation in ((net.layer2, 1), (net.layer3, 2), (net.layer4, 4)):
        assert {block.conv2.dilation for block in layer} == {(dilation, dilation)}


@pytest.mark.parametrize("kind", BASES)
def test_names_and_shapes_are_the_published_ones(kind):
    ours = {name.split(".", 1)[1]: list(x.shape) for name, x in encoder(kind).state_dict().items()}
    theirs = {canonical(name): shape for name, shape in published(BASES[kind][1]).items()}
    assert ours == theirs


@pytest.mark.parametrize(("tag", "batch", "key"), [("four", 2, "1shot"), ("pub5-0", 1, "5shot")])
def test_base_map_of_bam_is_the_published_one(tag, batch, key):
    base = encoder("bam").images(episode(tag, batch, 1)["query"]).base
    with np.load(Path(__file__).parent / "golden" / "bam_prior.npz") as golden:
        expected = torch.from_numpy(golden[f"{key}/base_map"])
    torch.testing.assert_close(base.softmax(1)[:, 1:].sum(1), expected, rtol=0, atol=2e-5)


def test_small_in_its_dense_form_agrees_with_its_strided_form():
    torch.manual_seed(0)
    strided = build_backbone(backbone_params("small"), 20, dense=False).eval()
    dense = build_backbone(backbone_params("small"), 20).eval()
    dense.load_state_dict(strided.state_dict())
    with torch.no_grad():
        x3 = strided.to_layer3(torch.randn(1, 3, 97, 97))[1]
        torch.testing.assert_close(dense.layer4(x3)[:, :, 4:9:2, 4:9:2], strided.layer4(x3)[:, :, 2:5, 2:5])


def test_gradient_channels_are_the_length_of_the_central_difference():
    images = torch.randn(1, 3, 5, 6)
    out = GradientChannels()(images)
    assert torch.equal(out[:, :3], images)
    dx, dy = images[0, 1, 2, 4] - images[0, 1, 2, 2], images[0, 1, 3, 3] - images[0, 1, 1, 3]
    torch.testing.assert_close(out[0, 4, 2, 3], torch.hypot(dx, dy))
    assert not GradientChannels()(torch.ones(1, 3, 4, 4))[:, 3:].any()


def small_file(path, classes=20, change=lambda state: state):
    state = change(dict(build_backbone(backbone_params("small"), classes).state_dict()))
    save_file(state, path)
    return path


def test_a_file_comes_back_in_float32_with_its_own_classes(tmp_path):
    path = small_file(tmp_path / "w.safetensors", 7, lambda s: {n: x.half() for n, x in s.items() if x.ndim})
    net = open_backbone(backbone_params("small"), path)
    assert net.fc.out_features == 7
    assert all(x.dtype == torch.float32 and not x.is_meta for x in net.parameters())
    torch.testing.assert_close(
        net.layer4[0].conv1.weight.half(), read_tensors(path)["layer4.0.conv1.weight"].half()
    )


def test_a_checkpoint_is_unwrapped(tmp_path):
    state = build_backbone(backbone_params("small"), 20).state_dict()
    path = tmp_path / "w.pth"
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": x for name, x in state.items()}}, path)
    assert read_tensors(path).keys() == state.keys()


def without(name):
    return lambda state: {key: x for key, x in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("layer3.0.conv1.weight"), "without layer3.0.conv1.weight"),
        (lambda s: {**s, "layer9.weight": torch.zeros(2)}, "with unknown layer9.weight"),
        (
            lambda s: {**s, "layer0.1.weight": torch.zeros(1, 3, 7, 7)},
            r"\(1, 3, 7, 7\) instead of \(32, 6, 3, 3\)",
        ),
        (lambda s: {**s, "fc.weight": torch.zeros(20, 64)}, "64 channels, but layer4 of small has 128"),
        (without("fc.bias"), "without fc.bias"),
    ],
)
def test_the_wrong_weights_are_named(tmp_path, change, message):
    path = small_file(tmp_path / "w.safetensors", change=change)
    with pytest.raises(WeightsError, match=message) as error:
        open_backbone(backbone_params("small"), path)
    assert str(path) in str(error.value)


class Malicious:
    def __reduce__(self):
        return (os.mkdir, ("hacked",))


def test_files_that_are_no_weights_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=r"gone.safetensors: no such weights file"):
        read_tensors("gone.safetensors")
    for name in ("bad.safetensors", "bad.pth"):
        for content in (
            b"",
            b"hello",
            b"<html></html>",
            b"version https://git-lfs",
            b"\x80",
            b"(",
            b"a tensor" * 99,
        ):
            Path(name).write_bytes(content)
            with pytest.raises(WeightsError, match=f"{name}: not a readable") as caught:
                read_tensors(name)
            assert "weights_only" not in str(caught.value), "torch's advice could run any code"
    torch.save({"weights": Malicious()}, "evil.pth")
    with pytest.raises(WeightsError, match=r"evil.pth: not a readable"):
        read_tensors("evil.pth")
    assert not Path("hacked").exists()
    torch.save([1, 2], "list.pth")
    with pytest.raises(WeightsError, match="no state dict"):
        read_tensors("list.pth")


def test_the_archives_of_backbones_are_torchvisions():
    best = {"resnet50": "IMAGENET1K_V2", "resnet101": "IMAGENET1K_V2", "squeezenet1_1": "IMAGENET1K_V1"}
    for name, version in {**best, "vgg16_bn": "IMAGENET1K_V1"}.items():
        archive = BACKBONES["vgg16-bam" if name == "vgg16_bn" else name].archive
        assert read_table()[archive].url == torchvision.models.get_model_weights(name)[version].url


def test_the_initial_weights_of_bam_load_by_their_own_names(tmp_path):
    """A deep stem of conv1, conv2 and conv3 with bn1, bn2 and bn3, as in the ResNet that BAM takes its weights for."""
    options = backbone_params("resnet50-bam", weights=str(tmp_path / "resnet50_v2.pth"))
    state = build_backbone(options, 1000).state_dict()
    stem = {
        f"layer0.{3 * n + m}.": f"{kind}{n + 1}." for n in range(3) for m, kind in enumerate(("conv", "bn"))
    }
    given = {
        next((new + key.removeprefix(old) for old, new in stem.items() if key.startswith(old)), key): value
        for key, value in state.items()
    }
    assert {"conv1.weight", "bn3.running_var"} <= given.keys()
    torch.save(given, options.weights)
    net = build_backbone(options)
    load_backbone_weights(net, options)
    assert net.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_an_encoder_from_its_files(tmp_path):
    options = backbone_params("small")
    backbone = small_file(tmp_path / "b.safetensors")
    tuned = build_backbone(options).state_dict()
    learner = PSPNet(128, 15, 64).state_dict()
    cam = {"fc.weight": torch.randn(20, 128), "fc.bias": torch.randn(20)}
    save_file(learner, tmp_path / "learner.safetensors")
    save_file({**learner, **without("fc.weight")(without("fc.bias")(tuned))}, tmp_path / "all.safetensors")
    save_file(cam, tmp_path / "cam.safetensors")

    plain = open_encoder(options, backbone)
    assert plain.base_learner is None and plain.images(torch.randn(1, 3, 33, 41)).base is None
    only = open_encoder(options, backbone, tmp_path / "learner.safetensors")
    torch.testing.assert_close(only.backbone.layer4[0].conv1.weight, plain.backbone.layer4[0].conv1.weight)
    torch.testing.assert_close(only.base_learner.cls[4].weight, learner["cls.4.weight"])
    both = open_encoder(options, backbone, tmp_path / "all.safetensors", tmp_path / "cam.safetensors")
    torch.testing.assert_close(both.backbone.layer4[0].conv1.weight, tuned["layer4.0.conv1.weight"])
    torch.testing.assert_close(both.backbone.fc.weight, cam["fc.weight"])
    assert not any(x.requires_grad for x in both.parameters())
    assert not both.train().training and not both.backbone.training
    with pytest.raises(WeightsError, match="no base learner"):
        open_encoder(options, backbone, tmp_path / "cam.safetensors")


def folder(variable, *names):
    value = os.environ.get(variable)
    for name in names:
        if value and (Path(value) / name).exists():
            return Path(value) / name
    pytest.skip(f"{variable} names no folder with {' or '.join(names)}")


CLASSES = {12: range(151, 269), 8: range(281, 288)}  # VOC's dog and cat among ImageNet's


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stride_at", "files", "least"),
    [
        ("resnet50", "1x1", ["resnet50.safetensors"], 0.75),
        (
            "squeezenet1_1",
            "3x3",
            ["squeezenet1_1_imagenet_fp32.safetensors", "squeezenet1_1.safetensors"],
            0.5,
        ),
    ],
)
def test_imagenet_weights_name_photographs(name, stride_at, files, least):
    weights, root = folder("I2R_WEIGHTS", *files), folder("I2R_DATA", "voc2012-animals")
    net = Encoder(open_backbone(backbone_params(name, stride_at=stride_at), weights))
    named, inside = [], []
    for voc, ids in CLASSES.items():
        for image, mask in photographs(root, voc, 10):
            features = net.images(image[None])
            named.append(net.backbone.logits(features.x4).argmax().item() in ids)
            best = net.support(features.x3, (mask == voc).long()[None])[1][:, list(ids)].argmax(1) + ids[0]
            cam = normalise(net.cams(features.x3, best, "xgradcam", "layer3"), mask.shape)[0]
            inside.append((cam[mask == voc].mean() > cam[mask == 0].mean()).item())
    assert np.mean(named) >= least
    assert np.mean(inside) >= 0.8


def photographs(root, voc, count):
    """The middle square, at 224, of photographs with one class on at least a tenth of the image."""
    found = []
    for name in read_list(root / "lists/val.txt"):
        mask = read_mask(root, name)
        if set(np.unique(mask)) <= {0, voc, 255} and (mask == voc).mean() > 0.1:
            height, width = mask.shape
            side = min(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            image = read_image(root, name)[top : top + side, left : left + side]
            mask = cv2.resize(mask[top : top + side, left : left + side], (224, 224), interpolation=0)
            found.append((standardise(cv2.resize(image, (224, 224))), torch.from_numpy(mask)))
        if len(found) == count:
            break
    return found
