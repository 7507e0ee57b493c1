"""The base learner of a fold: PSPNet's head on the classes that the fold trains on (docs/method.md 2.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from i2r.config.schema import Augment, Backbone, BaseLearner
from i2r.data.dataset import Dataset
from i2r.data.transforms import UNKNOWN, train_view
from i2r.engine.feature_cache import Memory, View
from i2r.engine.inputs import base_labels, job_dataset, job_lists, test_picture
from i2r.engine.trainer import fit, seed_of, set_up
from i2r.files import write_json
from i2r.metrics.segmentation import EPSILON, class_counts
from i2r.nets.fuse import fold
from i2r.nets.io.weights import open_backbone, open_encoder, read_tensors
from i2r.nets.pspnet import PSPHead
from i2r.nets.resize import bilinear
from i2r.pipeline.jobs import Job, JobError
from i2r.progress import Progress

# BAM's for its base learner; used where the backbone learns, too (otherwise features are kept)
AUGMENT = Augment(views=0, scale=(0.5, 2.0), fit=False, rotate=10.0, rotate_p=0.5, blur_p=0.5, flip_p=0.5)
WIDTH = 512  # of the head, as published; the small backbone has fewer channels to make it from
BACKBONE_RATE = 0.1  # its learning rate, relative to the head's (BAM)


def run(job: Job) -> dict[str, Any]:
    """Train the head, with `trains: all` the backbone as well, and score it on the base classes of the val list.

    With `weights` nothing is trained: they are taken from that file.
    """
    device = set_up(job.runtime)
    size = job.params["data"]["size"]
    dataset, lists = job_dataset(job), job_lists(job)
    options = BaseLearner(**job.params["base_learner"]).over(len(lists["train"]))
    classes = lists["train_classes"]
    backbone = open_backbone(
        Backbone(**job.params["backbone"]), job.inputs["backbone"] / "weights.safetensors"
    ).to(device)
    if options.weights:
        return trained_elsewhere(job, options.weights, dataset, classes, device)
    torch.manual_seed(seed_of("base_learner", job.args["fold"]))
    channels = backbone.channels[2]
    head = PSPHead(channels, len(classes), min(WIDTH, channels)).to(device)
    whole = options.trains == "all"
    head.train()

    if whole:
        backbone.requires_grad_().train()
        model, groups = nn.ModuleList([backbone, head]), [(1.0, head.parameters())]
        groups.append((BACKBONE_RATE, backbone.parameters()))
        draw = fresh_views(dataset, size, job.args["fold"])
    else:
        backbone = fold(backbone)
        model, groups = head, None
        draw = kept_features(backbone, dataset, size, job.runtime.cache_gb * 2**30, device)

    def losses(step: int) -> Mapping[str, Tensor]:
        names = batch_names(lists["train"], job.args["fold"], step, options.batch)
        parts = [draw(name, step * options.batch + place) for place, name in enumerate(names)]
        x, masks = (torch.stack(part).to(device) for part in zip(*parts, strict=True))
        target = base_labels(masks, classes)
        logits = head(backbone.layer4(backbone.to_layer3(x)[1]) if whole else x)
        return {"loss": F.cross_entropy(bilinear(logits, target.shape[-2:]), target, ignore_index=UNKNOWN)}

    metrics = fit(job, model, options, losses, label=f"base learner {job.name}", groups=groups)
    backbone.requires_grad_(False).eval()
    scores = evaluate(backbone, head.eval(), dataset, classes, size, device)
    state = head.state_dict()
    if whole:
        state |= {name: t for name, t in backbone.state_dict().items() if not name.startswith("fc.")}
    save_file({name: t.contiguous().cpu() for name, t in state.items()}, job.out / "weights.safetensors")
    write_json(job.out / "scores.json", scores)
    return metrics | {name: scores[name] for name in ("miou", "images")}


def trained_elsewhere(
    job: Job, path: str, dataset: Dataset, classes: list[int], device: torch.device
) -> dict[str, Any]:
    """Take the weights of a file, and score them.

    Raises:
        JobError: if its head is made for another number of classes.
    """
    options, size = Backbone(**job.params["backbone"]), job.params["data"]["size"]
    encoder = open_encoder(options, job.inputs["backbone"] / "weights.safetensors", path).to(device)
    found = encoder.head.cls[-1].out_channels - 1
    if found != len(classes):
        raise JobError(
            f"base_learner.weights: {path} is made for {found} classes, the fold has {len(classes)}"
        )
    scores = evaluate(encoder.backbone, encoder.head, dataset, classes, size, device)
    save_file({name: t.clone() for name, t in read_tensors(path).items()}, job.out / "weights.safetensors")
    write_json(job.out / "scores.json", scores)
    return {name: scores[name] for name in ("miou", "images")}


def batch_names(names: list[str], fold: int, step: int, size: int) -> list[str]:
    """Names of a step's pictures: each once an epoch, in another order each time."""
    chosen = []
    for index in range(step * size, (step + 1) * size):
        epoch, place = divmod(index, len(names))
        order = np.random.default_rng(seed_of("base order", fold, epoch)).permutation(len(names))
        chosen.append(names[order[place]])
    return chosen


Drawing = Callable[[str, int], tuple[Tensor, Tensor]]


def fresh_views(dataset: Dataset, size: int, fold: int) -> Drawing:
    """Name and number of a draw -> image (3, S, S) and mask (S, S) of a view that no other draw has."""

    def draw(name: str, number: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng(seed_of("base view", fold, number))
        return train_view(dataset.image(name), dataset.mask(name), size, AUGMENT, rng)

    return draw


def kept_features(
    backbone: nn.Module, dataset: Dataset, size: int, limit: float, device: torch.device
) -> Drawing:
    """Name -> layer4 (c4, h4, w4) and mask (S, S) of the picture as a test shows it, made once and kept."""
    memory, picture = Memory(limit), test_picture(dataset, size)

    @torch.no_grad()
    def make(name: str) -> tuple[Tensor, Tensor]:
        image, mask = picture(View(name))
        return backbone.layer4(backbone.to_layer3(image[None].to(device))[1])[0], mask.to(device)

    return lambda name, _: memory.get(name, lambda: make(name))


@torch.no_grad()
def evaluate(
    backbone: nn.Module,
    head: nn.Module,
    dataset: Dataset,
    classes: list[int],
    size: int,
    device: torch.device,
) -> dict[str, Any]:
    """IoU (percent) of each base class over the val images that show one, at S x S as the network sees them.

    The mean is over classes with a pixel in these images, as BAM counts it.
    """
    picture = test_picture(dataset, size)
    names = [n for n, pixels in dataset.index["val"].items() if any(str(c) in pixels for c in classes)]
    sums = torch.zeros(3, len(classes) + 1, dtype=torch.long)
    with Progress("base classes", len(names), "image") as progress:
        for name in names:
            image, mask = picture(View(name))
            logits = head(backbone.layer4(backbone.to_layer3(image[None].to(device))[1]))
            prediction = bilinear(logits, mask.shape)[0].argmax(0).cpu()
            counts = class_counts(prediction, base_labels(mask, classes), len(classes) + 1)
            sums += torch.stack(counts)
            progress.update()
    inter, union, truth = sums.double()
    iou = 100 * inter / (union + EPSILON)
    present = [place for place in range(1, len(classes) + 1) if truth[place]]
    return {
        "miou": float(iou[present].mean()) if present else None,
        "background": float(iou[0]),
        "classes": {
            str(c): {"name": dataset.classes[c - 1], "iou": float(iou[place]) if place in present else None}
            for place, c in enumerate(classes, start=1)
        },
        "images": len(names),
    }
