"""Counts the multiply-adds of the networks, and writes the table with which `i2r plan --card` calculates.

Tensors have shapes but no content, so nothing is computed. Counted are the convolutions and matrix products of an
episode: in training with the frozen backbone's forward, at test without it, because features are kept. What only some
experiments have is left out: CAMs, the ensemble, test-time augmentation. So the counts are lower bounds.

    python benchmarks/multiply_adds.py
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch
from step import paper_options
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from i2r.config import schema
from i2r.nets.backbone.base import build_backbone
from i2r.nets.encoder import Encoder, encode_episode
from i2r.nets.networks import build_meta_learner
from i2r.pipeline.estimate import MULTIPLY_ADDS

NETWORKS = {
    "i2r": ("resnet50", "resnet101"),
    "bam": ("resnet50", "resnet50-bam", "resnet101", "resnet101-bam"),
}
SIZES, SHOTS = (473, 641), (1, 5)  # of PASCAL-5i and COCO-20i
BATCH = 2  # more than one, because batch norms need it
COLUMNS = ("step", "network", "backbone", "size", "shot", "billions")


class Counter(TorchDispatchMode):
    """Counts the operations of matrix products and convolutions, forward and backward."""

    operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if count := flop_registry.get(func.overloadpacket):
            self.operations += count(*args, **kwargs, out_val=out)
        return out


def billions(function: Callable[[], Any]) -> tuple[float, Any]:
    """Multiply-adds of a function for one of BATCH episodes or images, in billions, and what it returned."""
    with Counter() as counter, sdpa_kernel(SDPBackend.MATH):
        found = function()
    return counter.operations / 2 / BATCH / 1e9, found


def episode(network: str, backbone: str, size: int, shot: int) -> tuple[float, float]:
    """Multiply-adds of an episode in training and at test."""
    options = paper_options(network, ensemble=False, prior="bam")
    encoder = Encoder(build_backbone(schema.Backbone(name=backbone)))
    encoder.fused()
    learner = build_meta_learner(options, encoder.layout, shot)
    with FakeTensorMode(allow_non_fake_inputs=True):
        query, supports = torch.empty(BATCH, 3, size, size), torch.empty(BATCH, shot, 3, size, size)
        masks = torch.ones(BATCH, shot, size, size, dtype=torch.uint8)
        classes = torch.zeros(BATCH, dtype=torch.int64)
        encoding, inputs = billions(
            lambda: encode_episode(encoder, query, supports, masks, options, masks[:, 0], classes)
        )
        learning, _ = billions(
            lambda: torch.autograd.grad(
                learner.train()(inputs).loss, list(learner.parameters()), allow_unused=True
            )
        )
        inputs.mask_q = None
        with torch.no_grad():
            test, _ = billions(lambda: learner.eval()(inputs))
    return encoding + learning, test


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=MULTIPLY_ADDS, metavar="FILE.csv")
    out = parser.parse_args().out
    rows = []
    for (network, backbones), size, shot in product(NETWORKS.items(), SIZES, SHOTS):
        for backbone in backbones:
            train, test = episode(network, backbone, size, shot)
            for step, count in (("train", train), ("evaluate", test)):
                rows.append((step, network, backbone, size, shot, f"{count:.1f}"))
    with out.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *sorted(rows)])
    print(f"{out}: {len(rows)} counts")


if __name__ == "__main__":
    main()
