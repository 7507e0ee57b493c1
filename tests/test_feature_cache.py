"""Features encoded together, as on a GPU, are those of images encoded one by one, as on a CPU."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from learning import params_of, run_params

from i2r.config.networks import NetworkOptions, network_options
from i2r.config.schema import Backbone
from i2r.engine.feature_cache import TOGETHER, CachedEncoder, Draw, groups
from i2r.engine.images import View
from i2r.nets.backbone.base import build_backbone
from i2r.nets.encoder import Encoder
from i2r.nets.pspnet import PSPNet

SIDE = 65
DRAWS = [
    Draw(1, View("0"), (View("1"), View("2"))),
    Draw(2, View("1"), (View("4"), View("0"))),
    Draw(1, View("6"), (View("2"), View("2"))),
]
IMAGES = 5  # different ones in DRAWS


def read(view):
    number = int(view.id)
    random = torch.Generator().manual_seed(number)
    mask = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
    mask[5 + number : 40, 5 : 50 - number], mask[0, :7] = 1 + number % 2, 255
    return torch.randn(SIDE, SIDE, 3, generator=random).permute(2, 0, 1), mask


def cached(encoder: Encoder, options: NetworkOptions, together: int, gigabytes: float = 1.0) -> CachedEncoder:
    found = CachedEncoder(encoder, options, read, gigabytes, torch.device("cpu"))
    found.together = together
    return found


def options_of(**network: str) -> NetworkOptions:
    return network_options(params_of("train", run_params(network=network))["network"])


def encoder_of(backbone: str) -> Encoder:
    torch.manual_seed(0)
    built = build_backbone(Backbone(name=backbone))
    return Encoder(built, PSPNet(built.layout.channels[2], 15))


@pytest.mark.parametrize(
    ("backbone", "network"),
    [
        ("small", {"name": "i2r"}),
        ("small", {"name": "i2r", "class_source": "majority", "cam_layer": "layer4"}),
        ("resnet50", {"name": "i2r"}),
        ("resnet50", {"name": "hsnet"}),
        ("vit_small_14", {"name": "bam"}),
    ],
)
def test_images_encoded_together_have_the_features_of_each_alone(backbone, network, monkeypatch):
    encoder, options = encoder_of(backbone), options_of(**network)
    seen = []
    images = encoder.images
    monkeypatch.setattr(encoder, "images", lambda x, pyramid: (seen.append(len(x)), images(x, pyramid))[1])
    alone, together = cached(encoder, options, 0), cached(encoder, options, 3 * SIDE**2 + 1)
    expected, found = alone.inputs(DRAWS), together.inputs(DRAWS)
    assert seen == [1] * IMAGES + [3, 2]
    for field in fields(expected):
        values = [getattr(made, field.name) for made in (expected, found)]
        for one, other in zip(
            *(value if isinstance(value, tuple) else [value] for value in values), strict=True
        ):
            scale = float(one.abs().max()) if one is not None and one.is_floating_point() else 0.0
            torch.testing.assert_close(other, one, atol=1e-5 * scale, rtol=0, msg=field.name)
    # an image that is kept does not hold the memory of its group
    assert together.memory.size <= alone.memory.size

    again = together.inputs(DRAWS[1:])
    assert seen == [1] * IMAGES + [3, 2]
    assert torch.equal(again.x2_s, found.x2_s[1:]) and torch.equal(again.x4_s, found.x4_s[1:])


def test_without_memory_a_batch_still_encodes_each_image_once(monkeypatch):
    encoder, options = encoder_of("small"), options_of(name="i2r")
    kept = cached(encoder, options, 2 * SIDE**2, gigabytes=0.0)
    seen = []
    images = encoder.images
    monkeypatch.setattr(encoder, "images", lambda x, pyramid: (seen.append(len(x)), images(x, pyramid))[1])
    kept.inputs(DRAWS)
    assert seen == [2, 2, 1] and kept.memory.size == 0
    kept.inputs(DRAWS)
    assert len(seen) == 6


def test_groups_have_a_bounded_number_of_pixels():
    assert list(groups([3, 3, 3, 7, 1, 9], lambda item: item, 6)) == [[3, 3], [3], [7], [1], [9]]
    assert list(groups([3, 3], lambda item: item, 0)) == [[3], [3]]
    assert list(groups([], len, 5)) == []
    assert TOGETHER // 473**2 == 9
