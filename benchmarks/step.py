"""Time of a training step and of an evaluation, in a unit that depends little on the machine.

The unit is one forward pass without gradient of torchvision's ResNet-50 over the episode's query and support images, on
the same machine, timed in turn with everything else. Weights are random, because times do not depend on them.

    python benchmarks/step.py --threads 2
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from i2r.config import schema
from i2r.config.networks import NETWORKS, NetworkOptions, network_options
from i2r.config.readings import settle
from i2r.engine.feature_cache import CachedEncoder, Draw
from i2r.engine.images import View
from i2r.nets.backbone.base import build_backbone
from i2r.nets.backbone.torchvision_ops import (
    torchvision,  # before pytorch_grad_cam, which imports torchvision as well
)
from i2r.nets.encoder import Encoder, encode_episode
from i2r.nets.networks import build_meta_learner
from i2r.nets.pmgm.cam import cam_maps_and_layer4
from i2r.nets.pspnet import PSPNet

from pytorch_grad_cam import XGradCAM  # isort: skip
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # isort: skip

# For the evaluation with cached features; the same ratio as 1000 episodes on 400 images.
IMAGES, EPISODES = 40, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=321, help="side of the images, pixels")
    parser.add_argument("--batch", type=int, default=2, help="episodes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    measured = measure(options)
    units = measured.pop("unit")
    print(f"unit: {statistics.median(units):.2f} s, {options.batch} episodes of {options.size} px, 1 shot")
    for name, seconds in measured.items():
        ratios = sorted(s / unit for s, unit in zip(seconds, units, strict=True))
        print(f"{name:58} {statistics.median(ratios):5.2f} units  [{ratios[0]:.2f}, {ratios[-1]:.2f}]")


def measure(options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each task in each round; the tasks take turns."""
    i2r = paper_options("i2r", ensemble=False)
    choices = {
        "I2R": i2r,
        "I2R with ensemble": paper_options("i2r", ensemble=True),
        "BAM": paper_options("bam"),
    }
    device, batch, size = torch.device(options.device), options.batch, options.size
    torch.manual_seed(0)
    reference = torchvision.models.resnet50(weights=None).eval().to(device)
    backbone = build_backbone(schema.Backbone(name="resnet50")).to(device)
    encoder = Encoder(backbone).to(device)
    with_base = Encoder(backbone, PSPNet(2048, 15)).to(device)
    learners = {name: build_meta_learner(own, encoder.layout).to(device) for name, own in choices.items()}
    optimisers = {
        name: torch.optim.SGD(learner.parameters(), 1e-3, momentum=0.9) for name, learner in learners.items()
    }

    images = torch.randn(2 * batch, 3, size, size, device=device)
    masks = torch.zeros(2 * batch, size, size, dtype=torch.uint8, device=device)
    masks[:, size // 4 : size // 2, size // 3 : 2 * size // 3] = 1
    query, supports, masks_s, mask_q = (
        images[:batch],
        images[batch:, None],
        masks[batch:, None],
        masks[:batch],
    )
    x3 = backbone.to_layer3(images)[1].detach()
    classes = torch.arange(2 * batch, device=device)
    package = XGradCAM(reference, [reference.layer3[-1]])

    def unit() -> None:
        with torch.no_grad():
            reference(images)

    def train(name: str) -> None:
        own = choices[name]
        frozen = with_base if own.ensemble else encoder
        inputs = encode_episode(frozen, query, supports, masks_s, own, mask_q, classes[:batch])
        loss = learners[name].train()(inputs).loss
        optimisers[name].zero_grad(set_to_none=True)
        loss.backward()
        optimisers[name].step()

    def evaluate(name: str) -> None:
        own = choices[name]
        frozen = with_base if own.ensemble else encoder
        with torch.no_grad():
            learners[name].eval()(encode_episode(frozen, query, supports, masks_s, own))

    def layer4() -> None:
        with torch.no_grad():
            backbone.layer4(x3)

    def cam() -> None:
        cam_maps_and_layer4("xgradcam", "layer3", backbone, x3, classes)

    def package_cam() -> None:
        package(images.clone(), [ClassifierOutputTarget(int(c)) for c in classes])

    def kept() -> None:
        cached = CachedEncoder(
            encoder, i2r, lambda view: (images[view.number % len(images)].cpu(), labels), 8, device
        )
        draws = [
            Draw(1, View("", index % IMAGES), (View("", (7 * index + 3) % IMAGES),))
            for index in range(EPISODES)
        ]
        with torch.no_grad():
            for start in range(0, EPISODES, batch):
                inputs = cached.inputs(draws[start : start + batch])
                inputs.mask_q = None
                learners["I2R"].eval()(inputs)

    labels = masks[0].cpu()
    tasks: dict[str, Callable[[], None]] = {
        "unit": unit,
        "I2R, training step": lambda: train("I2R"),
        "I2R, evaluation": lambda: evaluate("I2R"),
        "I2R with ensemble, training step": lambda: train("I2R with ensemble"),
        "I2R with ensemble, evaluation": lambda: evaluate("I2R with ensemble"),
        "BAM, training step": lambda: train("BAM"),
        "BAM, evaluation": lambda: evaluate("BAM"),
        "layer4": layer4,
        "layer4 and CAM": cam,
        "pytorch-grad-cam's XGradCAM": package_cam,
    }
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    kept_name = f"I2R, evaluation of {batch} of {EPISODES} episodes on {IMAGES} images"
    seconds[kept_name] = []
    for number in range(options.rounds + 1):
        for name, task in tasks.items():
            spent = timed(task, device)
            if number:  # the first round warms up
                seconds[name].append(spent)
        if number:
            seconds[kept_name].append(timed(kept, device) / EPISODES * batch)
    seconds["CAM in addition to the forward"] = [
        both - alone for both, alone in zip(seconds.pop("layer4 and CAM"), seconds.pop("layer4"), strict=True)
    ]
    return seconds


def paper_options(name: str, **changes: object) -> NetworkOptions:
    """Options of a network in the paper's reading."""
    defaults = {field: about.default for field, about in NETWORKS[name].model_fields.items()}
    return network_options(settle({"network": defaults}, "paper")["network"] | changes)


def timed(task: Callable[[], Tensor | None], device: torch.device) -> float:
    began = time.perf_counter()
    task()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
