"""The cam_head step: the classifier that CAMs are made of (docs/method.md 2.2)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2r.config.schema import Backbone, CamHead
from i2r.data.dataset import Dataset
from i2r.data.transforms import binary
from i2r.engine.images import View, evaluation_reader, load
from i2r.engine.inputs import WEIGHTS, job_dataset, job_encoder, job_lists
from i2r.engine.trainer import fit, seed_of, set_up
from i2r.files import write_json
from i2r.nets.encoder import Encoder
from i2r.nets.io.weights import open_encoder, write_tensors
from i2r.nets.resize import nearest
from i2r.pipeline.jobs import Job, JobError
from i2r.progress import Progress

IMAGES = 25  # of the val list for each class, on which predicted classes and agreement are measured
TOP = 5  # most frequent predicted classes to report


class Pair(NamedTuple):
    """An image and one of its classes."""

    name: str
    cls: int


def run(job: Job) -> dict[str, Any]:
    """Write fc.weight and fc.bias, and in scores.json the classes that the classifier predicts on the val list.

    If the base learner has changed the backbone, the agreement with the unchanged network is reported.

    Raises:
        JobError: the backbone has no classifier, or one that cannot be retrained.
    """
    device = set_up(job.runtime, job.threads)
    options = CamHead(**job.params["cam_head"])
    encoder = job_encoder(job, device)
    dataset = job_dataset(job)
    if encoder.backbone.fc is None:
        raise JobError("cam_head: the backbone's weights have no classifier (fc), which a CAM needs")
    metrics: dict[str, Any] = {}
    held_out = val_pairs(dataset, job_lists(job)["train_classes"])
    if options.mode in ("untouched", "retrained"):
        teacher = untouched_network(job).to(device)
        if options.mode == "retrained":
            metrics = retrain(job, options, encoder, teacher, device)
        if held_out:  # none where the lists divide the classes
            metrics["agreement"] = agreement(job, encoder, teacher, held_out, device)
    scores = {
        "mode": options.mode,
        "agreement": metrics.get("agreement"),
        "classes": classes_read(job, encoder, held_out, device),
    }
    fc = encoder.backbone.fc.state_dict()
    write_tensors(job.out / WEIGHTS, {f"fc.{name}": tensor for name, tensor in fc.items()})
    write_json(job.out / "scores.json", scores)
    return metrics


def val_pairs(dataset: Dataset, classes: list[int]) -> list[Pair]:
    """The first images of the val list for each class, at most IMAGES."""
    val = dataset.index["val"]
    return [
        Pair(name, c)
        for c in classes
        for name in [name for name, pixels in val.items() if str(c) in pixels][:IMAGES]
    ]


def train_pairs(job: Job, options: CamHead) -> list[Pair]:
    """Every training image with each of its training classes: of the master list, or of the fold's list."""
    lists = job_lists(job)
    images = lists["train_of"]
    if options.list == "all":
        train = job_dataset(job).index["train"]
        images = {
            name: [c for c in lists["train_classes"] if pixels.get(str(c))] for name, pixels in train.items()
        }
    return [Pair(name, c) for name, classes in images.items() for c in classes]


def untouched_network(job: Job) -> Encoder:
    """The backbone as it was before the base learner changed it, with its own classifier."""
    return open_encoder(Backbone(**job.params["backbone"]), job.inputs["backbone"] / WEIGHTS)


def retrain(
    job: Job, options: CamHead, encoder: Encoder, teacher: Encoder, device: torch.device
) -> dict[str, Any]:
    """Train the encoder's classifier on the changed features to imitate the unchanged network.

    Only this linear layer learns, so the masked averages of layer4 are computed once for each pair.

    Raises:
        JobError: the classifier is not linear on averages.
    """
    if not encoder.backbone.linear_classifier:
        name = job.params["backbone"]["name"]
        raise JobError(
            f"cam_head.mode: retrained needs a linear classifier on averages, which {name} does not have"
        )
    fold, pairs = job.args["fold"], train_pairs(job, options)
    rows = defaultdict(list)
    for row, pair in enumerate(pairs):
        rows[pair.name].append(row)
    names = list(rows)
    options = options.over(len(names))
    x, logits = averages(job, encoder, teacher, pairs, device)
    fc = encoder.backbone.fc
    learned = nn.Linear(x.shape[1], logits.shape[1]).to(device)
    learned.load_state_dict(fc.state_dict())

    def losses(step: int) -> Mapping[str, Tensor]:
        rng = np.random.default_rng(seed_of("cam head", fold, step, seed=options.seed))
        # draw images, then a class of each
        chosen = [int(rng.choice(rows[names[i]])) for i in rng.integers(len(names), size=options.batch)]
        return imitation(learned(x[chosen]), logits[chosen], options.temperature)

    metrics = fit(job, learned, options, losses, label=f"cam head {job.label}", seed=options.seed)
    fc.load_state_dict(learned.state_dict())
    return metrics


def imitation(student: Tensor, teacher: Tensor, temperature: float) -> dict[str, Tensor]:
    """CE(student, argmax teacher) + T^2 kl_div(log softmax(student / T), softmax(teacher / T)), mean over the batch.

    Args:
        student, teacher: logits (B, classes).
    """
    hard = F.cross_entropy(student, teacher.argmax(1))
    soft = F.kl_div(
        F.log_softmax(student / temperature, 1), F.softmax(teacher / temperature, 1), reduction="batchmean"
    )
    same = (student.argmax(1) == teacher.argmax(1)).float().mean()
    return {"loss": hard + temperature**2 * soft, "hard": hard, "soft": soft, "batch_agreement": same}


@torch.no_grad()
def agreement(job: Job, encoder: Encoder, teacher: Encoder, pairs: list[Pair], device: torch.device) -> float:
    """Share (percent) of objects for which the classifier on the changed features and the unchanged network predict
    the same class."""
    x, logits = averages(job, encoder, teacher, pairs, device)
    return 100 * float((encoder.backbone.classifier(x).argmax(1) == logits.argmax(1)).float().mean())


@torch.no_grad()
def averages(
    job: Job, encoder: Encoder, teacher: Encoder, pairs: list[Pair], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Masked averages of the encoder's layer4 (N, c4), and logits (N, classes) of the teacher on its own features."""
    means, logits = [], []
    for _, image, mask in objects(job, pairs, "cam head, features", device):
        maps = [e.images(image).x4 for e in (encoder, teacher)]
        inside = nearest(mask[None], maps[0].shape[-2:]) == 1
        own, other = ((x4 * inside).mean((2, 3)) for x4 in maps)
        means.append(own)
        logits.append(teacher.backbone.classifier(other))
    return torch.cat(means), torch.cat(logits)


@torch.no_grad()
def classes_read(job: Job, encoder: Encoder, pairs: list[Pair], device: torch.device) -> dict[str, Any]:
    """Classes predicted for masked objects (docs/method.md 2.3); the most frequent ones for each class."""
    read: dict[int, Counter] = defaultdict(Counter)
    names = job_dataset(job).classes
    for c, image, mask in objects(job, pairs, "cam head, classes", device):
        features = encoder.images(image)
        _, logits = encoder.support(features.x3, mask, features.x4)
        read[c][int(logits.argmax())] += 1
    return {
        str(c): {
            "name": names[c - 1],
            "images": counts.total(),
            "top": {str(k): n for k, n in counts.most_common(TOP)},
        }
        for c, counts in read.items()
    }


def objects(
    job: Job, pairs: list[Pair], label: str, device: torch.device
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Class, image (1, 3, S, S) and mask of the class (1, S, S) of each pair, on the device."""
    read = evaluation_reader(job_dataset(job), job.params["data"]["size"])
    views = [View(name) for name, _ in pairs]
    with Progress(label, len(pairs), "object") as progress:
        for (_, c), (image, mask) in zip(pairs, load(read, views, job.runtime.workers), strict=True):
            yield c, image[None].to(device), binary(mask, c)[None].to(device)
            progress.update()
