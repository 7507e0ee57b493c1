"""Networks with seeded weights (weights_by_seed.py), as for the golden numbers.

`network("i2r-released", shots=5, blocks=5, cross=4, ensemble=False)` is a complete network, imported from a published
state dict with seeded weights, and `episode("four", 2, 1)` an input, so that `network("bam")(**episode("four", 2, 1))`
is an Output to compare. `encoder("i2r")` is only the frozen part.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import torch
from weights_by_seed import canonical, fill, image, mask, tensor

from i2r.config import schema
from i2r.config.networks import network_options
from i2r.nets.backbone.base import build_backbone
from i2r.nets.encoder import Encoder
from i2r.nets.io.network_file import Network, build_network
from i2r.nets.io.published import network_about, rename
from i2r.nets.io.weights import load_backbone_tensors, open_base_learner, without_values

GOLDEN = Path(__file__).parent / "golden"

# name: backbone and the state dict of the published base network
BASES = {
    "i2r": ("resnet50", "iir-base-keys.json"),
    "bam": ("resnet50-bam", "bam-base-keys.json"),
    "bam-vgg16": ("vgg16-bam", "bam-base-keys-vgg16_bn.json"),
}


def backbone_params(name: str, **changes: object) -> schema.Backbone:
    """Params of a backbone."""
    return schema.Backbone(name=name, **changes)


@cache
def encoder(kind: str = "i2r") -> Encoder:
    """Encoder of `i2r`, `bam` or `bam-vgg16` with seeded weights, 15 base classes; shared, do not modify."""
    name, keys = BASES[kind]
    shapes = {key: shape for key, shape in published(keys).items() if not key.startswith("encoder.")}
    tensors = {key: torch.from_numpy(value) for key, value in fill(shapes).items()}
    head = {key: value for key, value in tensors.items() if key.startswith(("ppm.", "cls."))}
    rest = {key: value for key, value in tensors.items() if key not in head}
    with without_values():
        backbone = build_backbone(backbone_params(name))
    load_backbone_tensors(backbone, rest, name, keys)
    return Encoder(backbone, open_base_learner(head, keys))


def published(keys: str) -> dict[str, list[int]]:
    """Names and shapes of a published state dict; `encoder.K.*` are copies of `layerK.*`."""
    return json.loads((GOLDEN / keys).read_text())


@cache
def seeded(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A seeded tensor, by its canonical name; shared, do not modify."""
    return torch.from_numpy(tensor(name, shape))


def checkpoint(kind: str, shots: int = 1, blocks: int = 6, cross: int = 5) -> dict[str, torch.Tensor]:
    """A published state dict with seeded weights: iir-base, bam-base, bam, i2r-released, bam-vgg16, bam-base-vgg16.

    Names of the same tensor share it.

    Args:
        shots: of the complete networks. blocks, cross: of i2r-released.
    """
    backbone = "-vgg16_bn" if kind.endswith("-vgg16") else ""
    kind = kind.removesuffix("-vgg16")
    shapes = published(f"{kind}-keys{backbone}.json")
    if shots > 1:
        shapes |= {
            name: [shots if size == 5 else size for size in shape]
            for name, shape in published(f"{kind}-keys-5shot-extra.json").items()
        }
    limits = {"CrossAttn": cross, "Q_cls_head": blocks - 1, "S_cls_head": blocks - 1}
    limits |= dict.fromkeys(("Q_block", "S_block", "Q_block_res2_meta", "S_block_res2_meta"), blocks)

    def kept(name: str) -> bool:
        match = re.match(r"(\w+)\.(\d+)\.", name)
        return match is None or match[1] not in limits or int(match[2]) < limits[match[1]]

    return {name: seeded(canonical(name), tuple(shape)) for name, shape in shapes.items() if kept(name)}


def network(
    kind: str = "i2r-released", shots: int = 1, blocks: int = 6, cross: int = 5, **changes
) -> Network:
    """A complete published network, i2r-released, bam or bam-vgg16, with seeded weights, in eval mode.

    Args:
        changes: of its options, such as `ensemble=False`, `mask="dicm"`, `delta="adaptive"`, `dropout=0.0`.
    """
    published_kind = kind.removesuffix("-vgg16")
    tensors = rename(published_kind, checkpoint(kind, shots, blocks, cross), kind).tensors
    tensors = {
        name: tensor.clone() for name, tensor in tensors.items()
    }  # training changes the norms' statistics in place
    about = network_about(published_kind, tensors, size=161)
    return build_network(tensors, about, kind, network_options({**about["network"], **changes}))


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


def base_labels(tag: str, batch: int, height: int = 161, width: int = 161) -> torch.Tensor:
    """Labels of the base learner for an episode's queries, (B, H, W): 3 for even b, 7 for odd b, on 0, and 255."""
    values = [3, 7]
    rows = [mask(f"{tag}/base_mask/{b}", height, width, values[b % 2]) for b in range(batch)]
    return torch.stack([torch.from_numpy(row) for row in rows])
