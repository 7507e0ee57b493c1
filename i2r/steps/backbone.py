"""The backbone step: ImageNet weights, or the small backbone trained as a classifier of single objects.

The small one is the embedded data set's stand-in for a network trained on ImageNet: it learns all twenty kinds
of objects, one a picture, at the scale that they have in the episodes' images. It never sees the data set's
pictures.

Half of each batch is read as the episodes read their supports (see `Encoder.support`): layer3 times the object's
mask. Trained on whole pictures alone, this small network named one and the same class for every masked support.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from i2r.config.schema import Backbone as BackboneParams
from i2r.data.shapes.generate import CLASSES, single_object
from i2r.data.transforms import MEAN, STD
from i2r.engine.trainer import fit, set_up
from i2r.files import sha256
from i2r.nets.backbone.models import Backbone, build_backbone
from i2r.nets.io.weights import load_backbone_weights
from i2r.nets.resize import bilinear
from i2r.pipeline.jobs import Job, JobError
from i2r.progress import Progress

SIDE = 48  # of a training crop, pixels; an object fills more than half of it
MARGIN = 8  # crops are cut from pictures that much larger
POOL = 16000  # pictures made before the training, at most
HELD_OUT = 1000
SEEDS = {"train": 1, "held out": 2}  # of the pictures: numbers apart from those of the data set


def run(job: Job) -> dict[str, Any]:
    """Write weights.safetensors of the whole backbone with its classifier; the metrics say how good it is."""
    options = BackboneParams(**job.params["backbone"])
    if options.name != "small":
        backbone = build_backbone(options)
        load_backbone_weights(backbone, options)
        if options.weights:
            print(f"digest {sha256(options.weights)}")
        save_weights(backbone, job)
        classes = backbone.fc.out_features if backbone.fc else 0
        return {"classes": classes, "source": options.weights or "torchvision, ImageNet"}
    if not (job.inputs["data"] / "VOC").is_dir():
        raise JobError(
            "backbone.name: small is trained on the generated objects of data.source shapes; for photographs "
            "take resnet50, resnet101 or squeezenet1_1"
        )
    return pretrain(job, options)


def pretrain(job: Job, options: BackboneParams) -> dict[str, Any]:
    """Train the small backbone; resumable like every training."""
    device = set_up(job.runtime)
    torch.manual_seed(0)
    # strided as a classifier's layer4 is; the weights fit the dense form that episodes use
    net = build_backbone(options, len(CLASSES), dense=False).to(device, memory_format=torch.channels_last)
    schedule = options.pretrain.over(POOL)
    count = min(POOL, schedule.steps * schedule.batch)
    objects = pictures("train", count, SIDE + MARGIN)

    def losses(step: int) -> Mapping[str, Tensor | float]:
        x, masks, y = batch(*objects, step, schedule.batch)
        masks[: len(masks) // 2] = 1
        y = y.to(device)
        logits = masked_logits(net, x.to(device, memory_format=torch.channels_last), masks.to(device))
        hits = (logits.argmax(1) == y).float()
        whole, masked = hits.tensor_split([len(hits) // 2])
        return {
            "loss": F.cross_entropy(logits, y),
            "accuracy": whole.mean(),
            "accuracy_masked": masked.mean(),
        }

    metrics = fit(job, net.train(), schedule, losses, label="backbone small")
    dense = build_backbone(options, len(CLASSES))
    dense.load_state_dict(net.state_dict())
    images, masks, labels = pictures("held out", HELD_OUT, SIDE)
    whole = [np.ones_like(mask) for mask in masks]
    metrics["held_out_accuracy"] = accuracy(net.cpu(), images, whole, labels)
    metrics["held_out_accuracy_dense"] = accuracy(dense, images, whole, labels)
    metrics["held_out_accuracy_masked"] = accuracy(dense, images, masks, labels)
    save_weights(net, job)
    return metrics | {"classes": len(CLASSES), "pictures": count}


Objects = tuple[list[np.ndarray], list[np.ndarray], np.ndarray]


def pictures(split: str, count: int, side: int) -> Objects:
    """`count` pictures uint8 (side, side, 3) of one object each, their masks (side, side) of 0 and 1, and their
    labels 0..19, classes in turn."""
    labels = np.arange(count) % len(CLASSES)
    images, masks = [], []
    with Progress(f"objects, {split}", count, "picture") as progress:
        for number, label in enumerate(labels):
            rng = np.random.default_rng((SEEDS[split], number))
            image, mask = single_object(rng, int(label) + 1, side)
            images.append(image)
            masks.append((mask == label + 1).astype(np.uint8))
            progress.update()
    return images, masks, labels


def batch(
    images: list[np.ndarray], masks: list[np.ndarray], labels: np.ndarray, step: int, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch of a step, (size, 3, SIDE, SIDE), (size, SIDE, SIDE) and (size,): cut, mirrored and its colours
    exchanged at random."""
    rng = np.random.default_rng((SEEDS["train"], len(images), step))
    chosen = rng.integers(len(images), size=size)
    corners = rng.integers(MARGIN + 1, size=(size, 2))
    flips = rng.random(size) < 0.5
    crops, crop_masks = [], []
    for index, (top, left), flip in zip(chosen, corners, flips, strict=True):
        window = np.s_[top : top + SIDE, left : left + SIDE]
        turn = np.s_[:, :: -1 if flip else 1]
        crops.append(images[index][window][turn][..., rng.permutation(3)])
        crop_masks.append(masks[index][window][turn])
    return (
        normalise_all(np.stack(crops)),
        torch.from_numpy(np.stack(crop_masks)),
        torch.from_numpy(labels[chosen]),
    )


def masked_logits(net: Backbone, images: Tensor, masks: Tensor) -> Tensor:
    """Class logits of (N, 3, H, W), read from layer3 times the masks (N, H, W), as of an episode's supports."""
    x3 = net.to_layer3(images)[1]
    return net.logits(net.layer4(x3 * bilinear(masks, x3.shape[-2:])[:, None]))


def normalise_all(images: np.ndarray) -> Tensor:
    """As data.transforms.normalise, of uint8 (N, H, W, 3) at once."""
    values = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (values - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


@torch.no_grad()
def accuracy(
    net: Backbone, images: list[np.ndarray], masks: list[np.ndarray], labels: np.ndarray, size: int = 100
) -> float:
    """Share of pictures whose class the network names, seen through the masks."""
    net.eval()
    hits = 0
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        seen = torch.from_numpy(np.stack(masks[part]))
        logits = masked_logits(net, normalise_all(np.stack(images[part])), seen)
        hits += int((logits.argmax(1) == torch.from_numpy(labels[part])).sum())
    return hits / len(images)


def save_weights(backbone: Backbone, job: Job) -> None:
    state = {name: tensor.contiguous().cpu() for name, tensor in backbone.state_dict().items()}
    save_file(state, job.out / "weights.safetensors")
