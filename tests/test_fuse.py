"""Frozen networks with fused norms: equal numbers, and always those of the current weights."""

import copy

import pytest
import torch
from networks import backbone_params
from seeded import close
from torch import nn

from i2r.nets.backbone.base import build_backbone
from i2r.nets.encoder import Encoder
from i2r.nets.fuse import fuse
from i2r.nets.pspnet import PSPNet


def lively(module):
    """The module with norms that are not the identity."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for values in (part.running_mean, part.bias.data):
                values.normal_(std=0.1)
            for values in (part.running_var, part.weight.data):
                values.uniform_(0.5, 1.5)
    return module.eval()


@pytest.mark.parametrize("name", ["small", "resnet50", "resnet50-bam", "vgg16-bam", "squeezenet1_1"])
@torch.no_grad()
def test_a_fused_backbone_computes_the_same_without_norms(name):
    net = lively(build_backbone(backbone_params(name), 7))
    quick = fuse(net)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in quick.modules())
    images = torch.randn(2, 3, 65, 81)
    for theirs, ours in zip(net.to_layer3(images), quick.to_layer3(images), strict=True):
        close(ours, theirs)
    close(quick.classify(images), net.classify(images))


@torch.no_grad()
def test_a_fused_base_learner_computes_the_same():
    net, x4 = lively(PSPNet(64, 5, 32)), torch.randn(2, 64, 7, 9)
    close(fuse(net)(x4), net(x4))


@torch.no_grad()
def test_an_encoder_computes_with_the_weights_it_has_now():
    images = torch.randn(1, 3, 41, 41)
    encoder, other = (Encoder(lively(build_backbone(backbone_params("small"), 5))) for _ in range(2))
    names = list(encoder.state_dict())
    first = encoder.images(images).x4
    assert list(encoder.state_dict()) == names  # the published ones
    with torch.no_grad():
        other.backbone.layer4[0].conv1.weight.mul_(2)
    assert not torch.allclose(other.images(images).x4, first)
    encoder.load_state_dict(other.state_dict())
    assert torch.equal(encoder.images(images).x4, other.images(images).x4)
    moved = copy.deepcopy(encoder).double()
    assert moved.images(images.double()).x4.dtype == torch.float64
    encoder.backbone.fc.weight.data.zero_()
    logits = encoder.support(encoder.images(images).x3, torch.ones(1, 41, 41))[1]
    assert torch.equal(logits[0], encoder.backbone.fc.bias)
