"""The ViT backbone, compared with an independent implementation of DINOv2's transformer with the published names.

With random weights all maps of ViT-S/14 at 518 pixels are bitwise equal to those of timm 1.0.31's
`vit_small_patch14_dinov2`; this comparison is not part of the tests, because timm is not a dependency.
"""

import pytest
import torch
import torch.nn.functional as F
from networks import backbone_params

from i2r.nets.backbone.base import build_backbone
from i2r.nets.backbone.vit import ViT
from i2r.nets.encoder import Encoder

BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")


@pytest.fixture(scope="module")
def net():
    """Eight blocks of width 12 with two heads, patches of 4 pixels, positions of a 5 x 5 grid."""
    torch.manual_seed(0)
    net = ViT(width=12, depth=8, heads=2, patch=4, grid=5, per_layer=2).eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter.normal_(std=0.3)
    return net


def layer_norm(w, name, x):
    mean, var = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    return (x - mean) / (var + 1e-6).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def block(w, name, x, heads):
    n, width = x.shape
    qkv = linear(w, f"{name}.attn.qkv", layer_norm(w, f"{name}.norm1", x)).view(n, 3, heads, width // heads)
    attended = []
    for head in range(heads):
        q, k, v = qkv[:, :, head].unbind(1)
        attended.append((q @ k.T / (width // heads) ** 0.5).softmax(-1) @ v)
    x = x + w[f"{name}.ls1.gamma"] * linear(w, f"{name}.attn.proj", torch.cat(attended, 1))
    hidden = linear(w, f"{name}.mlp.fc1", layer_norm(w, f"{name}.norm2", x))
    gelu = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    return x + w[f"{name}.ls2.gamma"] * linear(w, f"{name}.mlp.fc2", gelu)


def plain_maps(w, image, positions, patch, heads, depth):
    """Normed maps (C, h, w) after every block, of one image whose sides are multiples of the patch."""
    h, wide = (side // patch for side in image.shape[-2:])
    cells = []
    for i in range(h):
        for j in range(wide):
            pixels = image[:, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch]
            kernel = w["patch_embed.proj.weight"]
            cells.append((kernel * pixels).sum((1, 2, 3)) + w["patch_embed.proj.bias"])
    x = torch.cat([w["cls_token"][0], torch.stack(cells)]) + positions
    maps = []
    for number in range(depth):
        x = block(w, f"blocks.{number}", x, heads)
        maps.append(layer_norm(w, "norm", x)[1:].T.unflatten(1, (h, wide)))
    return maps


def test_features_are_those_of_a_plain_transformer(net):
    weights, image = net.state_dict(), torch.randn(3, 20, 20)
    expected = plain_maps(weights, image, weights["pos_embed"][0], 4, 2, 8)
    maps = net.maps(image[None], pyramid=True)
    for ours, number in zip(maps[:3], (3, 5, 7), strict=True):
        torch.testing.assert_close(ours[0], expected[number], rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(maps.pyramid, expected[2:], strict=True):
        torch.testing.assert_close(ours[0], theirs, rtol=1e-4, atol=1e-5)


def test_positions_are_resized_by_the_sides_and_a_tenth(net):
    weights, image = net.state_dict(), torch.randn(3, 28, 12)
    grid = weights["pos_embed"][0, 1:].T.view(1, 12, 5, 5)
    cells = F.interpolate(grid, scale_factor=(7.1 / 5, 3.1 / 5), mode="bicubic")[0]  # as in DINOv2's code
    assert cells.shape[1:] == (7, 3)
    positions = torch.cat([weights["pos_embed"][0, :1], cells.flatten(1).T])
    expected = plain_maps(weights, image, positions, 4, 2, 8)
    torch.testing.assert_close(net.maps(image[None]).x4[0], expected[-1], rtol=1e-4, atol=1e-5)


def test_other_sides_are_resized_to_the_nearest_multiple(net):
    image = torch.randn(1, 3, 21, 30)
    resized = F.interpolate(image, (20, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(net.maps(image).x4, net.maps(resized).x4)
    assert net.maps(torch.randn(1, 3, 1, 97)).x4.shape == (1, 12, 1, 24)


def test_supports_are_masked_at_the_output(net):
    images, mask = torch.randn(2, 3, 20, 20), torch.zeros(2, 20, 20, dtype=torch.long)
    mask[:, 8:] = 1
    encoder = Encoder(net)
    features = encoder.images(images)
    masked, logits = encoder.support(features.x3, mask, features.x4)
    torch.testing.assert_close(masked[:, :, 3:], features.x4[:, :, 3:])
    assert not masked[:, :, 0].any() and logits.shape == (2, 1)
    with pytest.raises(ValueError, match="x4 of the supports is missing"):
        encoder.support(features.x3, mask)


def test_names_and_shapes_are_those_of_the_published_file():
    with torch.device("meta"):
        state = build_backbone(backbone_params("vit_small_14")).state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    whole = {"cls_token": (1, 1, 384), "pos_embed": (1, 1370, 384), "mask_token": (1, 384)}
    whole |= {"patch_embed.proj.weight": (384, 3, 14, 14), "patch_embed.proj.bias": (384,)}
    outputs = dict(zip(BLOCK, (384, 1152, 384, 384, 1536, 384), strict=True))
    for number in range(12):
        for name, size in outputs.items():
            fan_in = {"mlp.fc2": 1536}.get(name, 384)
            shape = (size,) if name.startswith("norm") else (size, fan_in)
            whole |= {f"blocks.{number}.{name}.weight": shape, f"blocks.{number}.{name}.bias": (size,)}
        whole |= {f"blocks.{number}.{name}.gamma": (384,) for name in ("ls1", "ls2")}
    assert shapes == whole | {"norm.weight": (384,), "norm.bias": (384,)}
