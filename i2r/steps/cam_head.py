"""The classifier that CAMs are made of (docs/method.md 2.2): the backbone's own, or one trained to imitate it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from i2r.config.schema import Backbone, CamHead
from i2r.data.dataset import Dataset
from i2r.data.transforms import binary
from i2r.engine.feature_cache import View
from i2r.engine.inputs import Picture, job_dataset, job_encoder, job_lists, test_picture
from i2r.engine.trainer import fit, seed_of, set_up
from i2r.files import write_json
from i2r.nets.encoder import Encoder
from i2r.nets.io.weights import open_encoder
from i2r.nets.resize import nearest
from i2r.pipeline.jobs import Job, JobError
from i2r.progress import Progress

IMAGES = 25  # of the val list and of each class, at which classes and agreement are looked at
TOP = 5  # classes that are named


class Pair(NamedTuple):
    """A picture and one of its classes."""

    name: str
    cls: int


def run(job: Job) -> dict[str, Any]:
    """Write fc.weight and fc.bias, and in scores.json what the classifier makes of objects of the val list.

    Raises:
        JobError: if the backbone's own classifier is asked for after the base learner has changed the backbone, or
            the backbone's classifier is none of channels on averages.
    """
    device = set_up(job.runtime)
    options = CamHead(**job.params["cam_head"])
    encoder = job_encoder(job, device)
    dataset, lists = job_dataset(job), job_lists(job)
    picture = test_picture(dataset, job.params["data"]["size"])
    if encoder.backbone.fc is None:
        raise JobError("cam_head: the backbone's weights have no classifier (fc), and a CAM needs one")
    metrics: dict[str, Any] = {}
    held_out = val_pairs(dataset, lists["train_classes"])
    if options.mode == "retrained":
        metrics = retrain(job, options, encoder, picture, lists, held_out, device)
    elif backbone_learned(job):
        raise JobError(
            "cam_head.mode: pretrained is the classifier of the backbone before base_learner.trains: all has "
            "changed it; take retrained"
        )
    scores = {
        "mode": options.mode,
        "agreement": metrics.get("agreement"),
        "classes": classes_read(encoder, picture, held_out, dataset.classes, device),
    }
    fc = {f"fc.{name}": t.contiguous().cpu() for name, t in encoder.backbone.fc.state_dict().items()}
    save_file(fc, job.out / "weights.safetensors")
    write_json(job.out / "scores.json", scores)
    return metrics


def backbone_learned(job: Job) -> bool:
    """Whether the base learner has trained the backbone, too, and has no classifier that fits it."""
    with safe_open(job.inputs["base_learner"] / "weights.safetensors", "pt") as file:
        names = file.keys()
    return "fc.weight" not in names and any(name.startswith("layer") for name in names)


def val_pairs(dataset: Dataset, classes: list[int]) -> list[Pair]:
    """The first pictures of the val list for each class, IMAGES at most."""
    val = dataset.index["val"]
    return [
        Pair(name, c)
        for c in classes
        for name in [name for name, pixels in val.items() if str(c) in pixels][:IMAGES]
    ]


def retrain(
    job: Job,
    options: CamHead,
    encoder: Encoder,
    picture: Picture,
    lists: dict[str, Any],
    held_out: list[Pair],
    device: torch.device,
) -> dict[str, Any]:
    """Train the classifier on the fine-tuned features to answer as the untouched network does on its own.

    Only that linear layer learns, so the masked averages of layer4 are all that is needed: made once a pair.
    The encoder gets the trained layer.
    """
    teacher = open_encoder(
        Backbone(**job.params["backbone"]), job.inputs["backbone"] / "weights.safetensors"
    ).to(device)
    if not encoder.backbone.linear_head:
        raise JobError("cam_head.mode: retrained needs a classifier on averages, which squeezenet1_1 has not")
    pairs = [Pair(name, c) for name, classes in lists["train_of"].items() for c in classes]
    rows = defaultdict(list)
    for row, pair in enumerate(pairs):
        rows[pair.name].append(row)
    names = list(rows)

    options = options.over(len(names))
    x, logits = averages(encoder, teacher, picture, pairs, device)
    x_val, logits_val = averages(encoder, teacher, picture, held_out, device)
    head = nn.Linear(x.shape[1], logits.shape[1]).to(device)
    head.load_state_dict(encoder.backbone.fc.state_dict())
    fold = job.args["fold"]

    def losses(step: int) -> Mapping[str, Tensor]:
        rng = np.random.default_rng(seed_of("cam head", fold, step))
        # a picture, then one of its classes
        chosen = [int(rng.choice(rows[names[i]])) for i in rng.integers(len(names), size=options.batch)]
        student, target = head(x[chosen]), logits[chosen]
        return imitation(student, target, options.temperature)

    metrics = fit(job, head, options, losses, label=f"cam head {job.name}")
    with torch.no_grad():
        metrics["agreement"] = 100 * float((head(x_val).argmax(1) == logits_val.argmax(1)).float().mean())
    encoder.backbone.fc.load_state_dict(head.state_dict())
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
    agreement = (student.argmax(1) == teacher.argmax(1)).float().mean()
    return {"loss": hard + temperature**2 * soft, "hard": hard, "soft": soft, "batch_agreement": agreement}


@torch.no_grad()
def averages(
    encoder: Encoder, teacher: Encoder, picture: Picture, pairs: list[Pair], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Masked averages of the student's layer4 (N, c4) and the teacher's logits on its own (N, classes)."""
    means, logits = [], []
    with Progress("cam head, features", len(pairs), "object") as progress:
        for name, c in pairs:
            image, mask = picture(View(name))
            maps = [e.images(image[None].to(device)).x4 for e in (encoder, teacher)]
            inside = nearest(binary(mask, c)[None, None].to(device), maps[0].shape[-2:]) == 1
            own, other = ((x4 * inside).mean((2, 3)) for x4 in maps)
            means.append(own)
            logits.append(teacher.backbone.fc(other))
            progress.update()
    return torch.cat(means), torch.cat(logits)


@torch.no_grad()
def classes_read(
    encoder: Encoder, picture: Picture, pairs: list[Pair], names: list[str], device: torch.device
) -> dict[str, Any]:
    """Classes that the classifier reads from masked objects (docs/method.md 2.3), the most frequent of each class."""
    read: dict[int, Counter] = defaultdict(Counter)
    with Progress("cam head, classes", len(pairs), "object") as progress:
        for name, c in pairs:
            image, mask = picture(View(name))
            x3 = encoder.folded().backbone.to_layer3(image[None].to(device))[1]
            _, logits = encoder.support(x3, binary(mask, c)[None].to(device))
            read[c][int(logits.argmax())] += 1
            progress.update()
    return {
        str(c): {
            "name": names[c - 1],
            "images": counts.total(),
            "top": {str(k): n for k, n in counts.most_common(TOP)},
        }
        for c, counts in read.items()
    }
