"""Frozen networks with weights made from names (weights_by_seed.py), as the golden numbers were made.

`encoder("i2r")` is the frozen part of I2R; `episode("four", 2, 1)` one of its inputs.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import torch
from weights_by_seed import fill, image, mask

from i2r import params
from i2r.nets.backbones import build_backbone
from i2r.nets.encoder import Encoder
from i2r.nets.weights import load_backbone_tensors, open_head, without_values

GOLDEN = Path(__file__).parent / "golden"

# name: backbone and the state dict of the published base network
BASES = {
    "i2r": ("resnet50", "iir-base-keys.json"),
    "bam": ("resnet50-bam", "bam-base-keys.json"),
    "bam-vgg16": ("vgg16-bam", "bam-base-keys-vgg16_bn.json"),
}


def backbone_params(name: str, **changes: object) -> params.Backbone:
    """Params of a backbone; only name, weights and stride_at matter to the network."""
    schedule = {
        "optimiser": "sgd",
        "warmup": 0.0,
        "steps": 1,
        "batch": 1,
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "power": 0.9,
    }
    values = {"name": name, "weights": None, "stride_at": "3x3", "pretrain": schedule, **changes}
    return params.Backbone(**values)


@cache
def encoder(kind: str = "i2r") -> Encoder:
    """Frozen part of `i2r`, `bam` or `bam-vgg16` with weights by seed, 15 base classes; shared, don't change."""
    name, keys = BASES[kind]
    shapes = {key: shape for key, shape in published(keys).items() if not key.startswith("encoder.")}
    tensors = {key: torch.from_numpy(value) for key, value in fill(shapes).items()}
    head = {key: value for key, value in tensors.items() if key.startswith(("ppm.", "cls."))}
    rest = {key: value for key, value in tensors.items() if key not in head}
    with without_values():
        backbone = build_backbone(backbone_params(name))
    load_backbone_tensors(backbone, rest, name, keys)
    return Encoder(backbone, open_head(head, keys))


def published(keys: str) -> dict[str, list[int]]:
    """Names and shapes of a published state dict; `encoder.K.*` are `layerK.*` once more."""
    return json.loads((GOLDEN / keys).read_text())


def episode(tag: str, batch: int, shots: int, height: int = 161, width: int = 161) -> dict[str, torch.Tensor]:
    """Arguments of `encode_episode`: query (B, 3, H, W), supports (B, K, 3, H, W), masks (B, K, H, W), mask_q."""

    def of_shots(make, kind):
        rows = [[make(f"{tag}/{kind}/{b}/{k}", height, width) for k in range(shots)] for b in range(batch)]
        return torch.stack([torch.stack([torch.from_numpy(part) for part in row]) for row in rows])

    def of_query(make, kind):
        return torch.stack([torch.from_numpy(make(f"{tag}/{kind}/{b}", height, width)) for b in range(batch)])

    return {
        "query": of_query(image, "query"),
        "supports": of_shots(image, "support"),
        "masks": of_shots(mask, "support_mask"),
        "mask_q": of_query(mask, "query_mask"),
    }
