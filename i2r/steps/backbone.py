"""The backbone step: ImageNet weights, or the small backbone trained as a classifier of single objects.

For the generated data set the small backbone takes the place of a network trained on ImageNet. It learns all twenty
classes from images with a single object each, at the scale of the episodes. It never sees the data set's images.

In half of each batch layer3 is multiplied by the object's mask, as for the supports of episodes (`Encoder.support`).
When it is trained only on unmasked images, this small network predicts the same class for every masked support.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from i2r.config.schema import Backbone as BackboneParams
from i2r.config.schema import Pretrain
from i2r.data.shapes.generate import CLASSES, single_object
from i2r.data.transforms import MEAN, STD
from i2r.engine.inputs import WEIGHTS
from i2r.engine.trainer import fit, set_up
from i2r.files import read_json, sha256
from i2r.nets.backbone.base import Backbone, build_backbone
from i2r.nets.io.weights import WeightsError, load_backbone_weights, write_tensors
from i2r.nets.resize import bilinear
from i2r.pipeline.fetched import FETCHED, ROLE
from i2r.pipeline.jobs import Job
from i2r.progress import Progress

STREAMS = {"train": 1, "held out": 2}  # first entry of the images' seeds


def run(job: Job) -> dict[str, Any]:
    """Write weights.safetensors of the backbone with its classifier; the metrics of `small` include its accuracy."""
    options = BackboneParams(**job.params["backbone"])
    device = set_up(job.runtime, job.threads)
    if options.name == "small" and not options.weights:
        return pretrain(job, options, device)
    if ROLE in job.inputs:
        options = options.model_copy(update={"weights": published_weights(job)})
    backbone = build_backbone(options)
    load_backbone_weights(backbone, options)
    print(f"digest {sha256(options.weights)}")
    save_weights(backbone, job)
    classes = backbone.fc.out_features if backbone.fc else 0
    return {"classes": classes, "source": options.weights}


def published_weights(job: Job) -> str:
    """The fetched file.

    Raises:
        WeightsError: it is missing, or has changed since it was fetched.
    """
    (known,) = read_json(job.inputs[ROLE] / FETCHED).values()
    path = Path(job.runtime.data_root) / known["place"]
    if not path.is_file() or sha256(path) != known["sha256"]:
        raise WeightsError(f"{path}: missing, or changed since it was fetched; `snakemake` fetches it again")
    return str(path)


def pretrain(job: Job, options: BackboneParams, device: torch.device) -> dict[str, Any]:
    """Train the small backbone; resumable, like every training."""
    schedule = options.pretrain.over(options.pretrain.pictures)
    torch.manual_seed(schedule.seed)
    # trained with a strided layer4, as in a classifier; the weights fit the dense form that episodes use
    net = build_backbone(options, len(CLASSES), dense=False).to(device, memory_format=torch.channels_last)
    count = min(schedule.pictures, schedule.steps * schedule.batch)
    objects = object_images("train", count, schedule.crop + schedule.margin, schedule.seed)

    def losses(step: int) -> Mapping[str, Tensor | float]:
        x, masks, y = batch(*objects, step, schedule)
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

    metrics = fit(job, net.train(), schedule, losses, label="backbone small", seed=schedule.seed)
    dense = build_backbone(options, len(CLASSES))
    dense.load_state_dict(net.state_dict())
    images, masks, labels = object_images("held out", schedule.held_out, schedule.crop, schedule.seed)
    whole = [np.ones_like(mask) for mask in masks]
    metrics["held_out_accuracy"] = accuracy(net.cpu(), images, whole, labels)
    metrics["held_out_accuracy_dense"] = accuracy(dense, images, whole, labels)
    metrics["held_out_accuracy_masked"] = accuracy(dense, images, masks, labels)
    save_weights(net, job)
    return metrics | {"classes": len(CLASSES), "pictures": count}


Objects = tuple[list[np.ndarray], list[np.ndarray], np.ndarray]


def object_images(split: str, count: int, side: int, seed: int = 0) -> Objects:
    """`count` generated images of one object each, classes in turn; each depends only on split, number and seed.

    Returns:
        Images uint8 (side, side, 3), masks uint8 (side, side) of 0 and 1, and labels (count,) 0..19.
    """
    labels = np.arange(count) % len(CLASSES)
    images, masks = [], []
    with Progress(f"objects, {split}", count, "image") as progress:
        for number, label in enumerate(labels):
            rng = np.random.default_rng((STREAMS[split], number, seed))
            image, mask = single_object(rng, int(label) + 1, side)
            images.append(image)
            masks.append((mask == label + 1).astype(np.uint8))
            progress.update()
    return images, masks, labels


def batch(
    images: list[np.ndarray], masks: list[np.ndarray], labels: np.ndarray, step: int, schedule: Pretrain
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch of a step: crops of side C, randomly mirrored and with colour channels randomly permuted.

    Returns:
        Normalised images (B, 3, C, C), masks (B, C, C) and labels (B,).
    """
    size, side = schedule.batch, schedule.crop
    rng = np.random.default_rng((STREAMS["train"], len(images), step, schedule.seed))
    chosen = rng.integers(len(images), size=size)
    corners = rng.integers(schedule.margin + 1, size=(size, 2))
    flips = rng.random(size) < 0.5
    crops, crop_masks = [], []
    for index, (top, left), flip in zip(chosen, corners, flips, strict=True):
        window = np.s_[top : top + side, left : left + side]
        turn = np.s_[:, :: -1 if flip else 1]
        crops.append(images[index][window][turn][..., rng.permutation(3)])
        crop_masks.append(masks[index][window][turn])
    return (
        normalise_all(np.stack(crops)),
        torch.from_numpy(np.stack(crop_masks)),
        torch.from_numpy(labels[chosen]),
    )


def masked_logits(net: Backbone, images: Tensor, masks: Tensor) -> Tensor:
    """Class logits (N, 20) of images (N, 3, H, W) with masks (N, H, W) applied at layer3, as to supports."""
    x3 = net.to_layer3(images)[1]
    return net.logits(net.layer4(x3 * bilinear(masks, x3.shape[-2:])[:, None]))


def normalise_all(images: np.ndarray) -> Tensor:
    """data.transforms.normalise for a batch, uint8 (N, H, W, 3)."""
    values = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (values - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


@torch.no_grad()
def accuracy(
    net: Backbone, images: list[np.ndarray], masks: list[np.ndarray], labels: np.ndarray, size: int = 100
) -> float:
    """Share of masked images that the network classifies correctly."""
    net.eval()
    hits = 0
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        seen = torch.from_numpy(np.stack(masks[part]))
        logits = masked_logits(net, normalise_all(np.stack(images[part])), seen)
        hits += int((logits.argmax(1) == torch.from_numpy(labels[part])).sum())
    return hits / len(images)


def save_weights(backbone: Backbone, job: Job) -> None:
    """Write weights.safetensors."""
    write_tensors(job.out / WEIGHTS, backbone.state_dict())
