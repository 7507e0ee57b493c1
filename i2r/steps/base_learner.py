"""The base_learner step: PSPNet on the fold's training classes (docs/method.md 2.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from i2r.config.schema import Backbone, BaseLearner
from i2r.config.training import Augment
from i2r.data.dataset import Dataset
from i2r.data.transforms import normalised, train_pixels
from i2r.engine.feature_cache import Memory
from i2r.engine.images import ReadAhead, View, evaluation_reader, load, load_steps
from i2r.engine.inputs import UNLABELLED, WEIGHTS, base_labels, job_dataset, job_lists
from i2r.engine.processes import shared
from i2r.engine.trainer import fit, seed_of, set_up
from i2r.engine.validation import Validation, kept_files
from i2r.files import write_json
from i2r.metrics.segmentation import EPSILON, class_counts
from i2r.nets.fuse import fuse
from i2r.nets.io.weights import open_backbone, open_encoder, read_tensors, write_tensors
from i2r.nets.pspnet import PSPNet
from i2r.nets.resize import bilinear
from i2r.nets.whole_batch import cross_entropy, places
from i2r.pipeline.jobs import Job, JobError
from i2r.progress import Progress

Step = Callable[[int], tuple[Tensor, Tensor]]


def run(job: Job) -> dict[str, Any]:
    """Train the base learner, with `trains: all` the backbone as well, and score it on the val list's base classes.

    If it is validated during the training, the weights that `checkpoint` does not choose are written as well, as
    last.safetensors or best.safetensors. With `weights` the file is used and nothing is trained.
    """
    return trained_elsewhere(job) if job.params["base_learner"]["weights"] else trained(job)


@shared
def trained(job: Job) -> dict[str, Any]:
    """Train, see `run`."""
    device = set_up(job.runtime, job.threads)
    lists, options = job_lists(job), BaseLearner(**job.params["base_learner"])
    names = lists["train"] if options.list == "fold" else list(job_dataset(job).index["train"])
    options = options.over(len(names))
    backbone = open_backbone(Backbone(**job.params["backbone"]), job.inputs["backbone"] / WEIGHTS).to(device)
    torch.manual_seed(seed_of("base_learner", job.args["fold"], seed=options.seed))
    channels, classes = backbone.channels[2], lists["train_classes"]
    net = PSPNet(channels, len(classes), min(options.width, channels), options.dropout).to(device).train()
    whole = options.trains == "all"
    if whole:
        backbone.requires_grad_().train()
        model: nn.Module = nn.ModuleList([backbone, net])
        groups = [(1.0, net.parameters()), (options.backbone_rate, backbone.parameters())]
        next_batch = fresh_views(job, options, names, device)
    else:
        backbone, model, groups = fuse(backbone), net, None
        next_batch = kept_features(job, backbone, options, names, device)

    def losses(step: int) -> Mapping[str, Tensor]:
        x, masks = next_batch(step)
        target = base_labels(masks, classes)
        logits = net(backbone.maps(x).x4 if whole else x)
        return {"loss": cross_entropy(bilinear(logits, target.shape[-2:]), target, UNLABELLED)}

    def measured() -> dict[str, Any]:
        return score(job, options, backbone, net, classes, device)

    validation = None
    if every := options.validate_every:
        patience = math.ceil(options.patience / every)
        validation = Validation(options.validations(len(names)), lambda: measured()["miou"], patience)
    label = f"base learner {job.label}"
    metrics = fit(
        job, model, options, losses, label=label, groups=groups, seed=options.seed, validation=validation
    )
    backbone.requires_grad_(False)
    model.eval()
    for file in kept_files(model, validation, options.checkpoint):
        save_weights(job.out / file, net, backbone if whole else None)
    scores = measured() | ({"checkpoint": options.checkpoint, **validation.summary()} if validation else {})
    write_json(job.out / "scores.json", scores)
    return metrics | {name: scores[name] for name in ("miou", "images", "best_step") if name in scores}


def save_weights(path: Path, net: nn.Module, backbone: nn.Module | None) -> None:
    """Write the head's tensors and, if it was trained, the backbone's without its classifier."""
    state = net.state_dict()
    if backbone is not None:
        state |= {name: t for name, t in backbone.state_dict().items() if not name.startswith("fc.")}
    write_tensors(path, state)


def trained_elsewhere(job: Job) -> dict[str, Any]:
    """Use the weights of a file, and score them.

    Raises:
        JobError: they are for another number of classes, or include a backbone although `trains` is head.
    """
    device = set_up(job.runtime, job.threads)
    options, classes = BaseLearner(**job.params["base_learner"]), job_lists(job)["train_classes"]
    path = options.weights
    encoder = open_encoder(Backbone(**job.params["backbone"]), job.inputs["backbone"] / WEIGHTS, path).to(
        device
    )
    found = encoder.base_learner.cls[-1].out_channels - 1
    if found != len(classes):
        raise JobError(
            f"base_learner.weights: {path} is for {found} classes, but the fold has {len(classes)}"
        )
    tensors = read_tensors(path)
    if options.trains == "head" and any(not name.startswith(("ppm.", "cls.")) for name in tensors):
        raise JobError(f"base_learner.weights: {path} includes a backbone; set base_learner.trains: all")
    scores = score(job, options, encoder.backbone, encoder.base_learner, classes, device)
    write_tensors(job.out / WEIGHTS, {name: t.clone() for name, t in tensors.items()})
    write_json(job.out / "scores.json", scores)
    return {name: scores[name] for name in ("miou", "images")}


def side(job: Job, options: BaseLearner) -> int:
    """Side S of the base learner's images."""
    return options.size or job.params["data"]["size"]


def name_of(names: list[str], fold: int, seed: int, index: int) -> str:
    """Image number `index` of the training: each image once per epoch, in a new order each time."""
    epoch, place = divmod(index, len(names))
    order = np.random.default_rng(seed_of("base order", fold, epoch, seed=seed)).permutation(len(names))
    return names[order[place]]


def fresh_views(job: Job, options: BaseLearner, names: list[str], device: torch.device) -> Step:
    """Step -> images (B, 3, S, S) and masks (B, S, S), with a new view of each image."""
    size, fold = side(job, options), job.args["fold"]
    read = partial(fresh_view, job_dataset(job), size, options.augment, names, fold, options.seed)
    of_step = load_steps(read, options.steps, options.batch, job.runtime.workers, device)

    def views(step: int) -> tuple[Tensor, Tensor]:
        images, masks = of_step(step)
        return normalised(images), masks

    return views


def fresh_view(
    dataset: Dataset, size: int, augment: Augment, names: list[str], fold: int, seed: int, index: int
) -> tuple[Tensor, Tensor]:
    """Image (S, S, 3), not normalised, and mask (S, S) number `index` of the training."""
    name = name_of(names, fold, seed, index)
    rng = np.random.default_rng(seed_of("base view", fold, index, seed=seed))
    return train_pixels(dataset.image(name), dataset.mask(name), size, augment, rng)


def kept_features(
    job: Job, backbone: nn.Module, options: BaseLearner, names: list[str], device: torch.device
) -> Step:
    """Step -> layer4 (B, c4, h4, w4) and masks (B, S, S) of complete images; the features are cached."""
    memory = Memory(job.runtime.cache_gb * 2**30)
    read = ReadAhead(evaluation_reader(job_dataset(job), side(job, options)), job.runtime.workers)
    fold, batch = job.args["fold"], options.batch
    begun = False

    def views(step: int) -> list[View]:
        indices = (step * batch + place for place in places(batch))
        return [View(name_of(names, fold, options.seed, index)) for index in indices]

    @torch.no_grad()
    def make(view: View) -> tuple[Tensor, Tensor]:
        image, mask = read(view)
        return backbone.maps(image[None].to(device)).x4[0], mask.to(device)

    def of_step(step: int) -> tuple[Tensor, Tensor]:
        nonlocal begun
        if not begun:
            read.expect(map(views, range(step, options.steps)))
            begun = True
        read.advance()
        own = views(step)
        kept = memory.get("x4", own, lambda new: map(make, new))
        x, masks = (torch.stack(part) for part in zip(*(kept[view] for view in own), strict=True))
        return x, masks

    return of_step


@torch.no_grad()
def score(
    job: Job,
    options: BaseLearner,
    backbone: nn.Module,
    net: nn.Module,
    classes: list[int],
    device: torch.device,
) -> dict[str, Any]:
    """The content of scores.json: IoU (percent) of each base class over the val images, at S x S.

    They are all of the val list, or with `list: fold` those that show a base class. The mean is over the classes that
    occur in these images, as in BAM.
    """
    dataset = job_dataset(job)
    names = list(dataset.index["val"])
    if options.list == "fold":
        names = [n for n in names if any(str(c) in dataset.index["val"][n] for c in classes)]
    read = evaluation_reader(dataset, side(job, options))
    sums = torch.zeros(3, len(classes) + 1, dtype=torch.long)
    with Progress("base classes", len(names), "image") as progress:
        for image, mask in load(read, map(View, names), job.runtime.workers):
            logits = net(backbone.maps(image[None].to(device)).x4)
            prediction = bilinear(logits, mask.shape)[0].argmax(0).cpu()
            labels = base_labels(mask, classes)
            sums += torch.stack(class_counts(prediction, labels, len(classes) + 1, UNLABELLED))
            progress.update()
    inter, union, truth = sums.double()
    iou = 100 * inter / (union + EPSILON)
    present = [place for place in range(1, len(classes) + 1) if truth[place]]
    return {
        "miou": float(iou[present].mean()) if present else None,
        "background": float(iou[0]) if truth[0] else None,
        "classes": {
            str(c): {"name": dataset.classes[c - 1], "iou": float(iou[place]) if place in present else None}
            for place, c in enumerate(classes, start=1)
        },
        "images": len(names),
    }
