"""What a job finds made before it: the frozen networks, the data set and its lists, and views of its pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from i2r.config.schema import FROM_ONE_SHOT, Augment, Backbone
from i2r.data.dataset import Dataset, open_dataset
from i2r.data.episodes import Episode
from i2r.data.transforms import UNKNOWN, test_view, train_view
from i2r.data.voc import IMAGENET_CLASSES
from i2r.engine.feature_cache import Draw, View
from i2r.engine.trainer import seed_of
from i2r.files import read_json
from i2r.nets.encoder import Encoder
from i2r.nets.io.network_file import open_network, read_about
from i2r.nets.io.weights import open_encoder
from i2r.nets.resize import bilinear, nearest
from i2r.pipeline.jobs import Job, JobError

WEIGHTS = "weights.safetensors"

IMAGENET = 1000  # classes of its classifiers

Picture = Callable[[View], tuple[Tensor, Tensor]]


def job_encoder(job: Job, device: torch.device) -> Encoder:
    """The frozen networks of a job, on a device; see frozen_networks."""
    return frozen_networks(job.inputs, job.params).to(device)


def frozen_networks(inputs: Mapping[str, Path], sections: Mapping[str, Any]) -> Encoder:
    """Backbone, with the base learner and the CAM head if there are any.

    A method that is or starts from a whole network's file has that network's own, for its head fits no other.
    Without the ensemble nothing looks at the base learner's logits: its head is left out.

    Args:
        inputs: folders of finished jobs, "backbone" and so on.
        sections: of params; "method" may be missing.

    Raises:
        JobError: if method.class_source is table, and the classifier's classes are neither ImageNet's nor the
            data set's own.
    """
    method = sections.get("method", {})
    file = method.get("weights") or method.get("start")
    if file and file != FROM_ONE_SHOT and read_about(file) is not None:
        encoder = open_network(file).encoder
    else:
        roles = ("backbone", "base_learner", "cam_head")
        files = {role: inputs[role] / WEIGHTS for role in roles if role in inputs}
        encoder = open_encoder(Backbone(**sections["backbone"]), **files)
    if not method.get("ensemble"):
        encoder.head = None
    if method.get("class_source") == "table":
        names = read_json(inputs["data"] / "index.json")["classes"]
        encoder.class_table = class_table(names, encoder.backbone.classifier.out_features)
    return encoder


def start_file(job: Job) -> str | Path | None:
    """The weights that the job's training starts from: a file, those of its method with one shot, or none."""
    start = job.params["method"].get("start")
    return job.inputs["start"] / WEIGHTS if start == FROM_ONE_SHOT else start


def class_table(names: list[str], classes: int) -> Tensor:
    """The class of a classifier of so many classes that stands for each class of a data set, (C,) int64.

    A classifier with as many classes as the data set is one of them, in their order.

    Raises:
        JobError: if there is no such table.
    """
    if classes == len(names):
        return torch.arange(classes)
    if classes != IMAGENET or not set(names) <= set(IMAGENET_CLASSES):
        raise JobError(
            f"method.class_source: table: nothing says which of the classifier's {classes} classes stand for "
            f"{', '.join(names[:3])} ...; take episode or majority"
        )
    return torch.tensor([IMAGENET_CLASSES[name] for name in names])


def job_dataset(job: Job) -> Dataset:
    return open_dataset(job.inputs["data"], job.data_root)


def job_lists(job: Job) -> dict[str, Any]:
    """The fold's lists, see data.lists.fold_lists."""
    return read_json(job.inputs["lists"] / "lists.json")


def test_picture(dataset: Dataset, size: int) -> Picture:
    """Views for a test, by id: image (3, S, S) and mask (S, S)."""

    def picture(view: View) -> tuple[Tensor, Tensor]:
        image, mask, _ = test_view(dataset.image(view.id), dataset.mask(view.id), size)
        return image, mask

    return picture


test_picture.__test__ = False  # not a test, whatever pytest makes of its name


def resized(picture: Picture, *sides: int) -> Picture:
    """Its views at other sides, (3, T, T) and (T, T): the image resized to each in turn, the mask to the last."""

    def resized_view(view: View) -> tuple[Tensor, Tensor]:
        image, mask = picture(view)
        for side in sides:
            image = bilinear(image, (side, side))
        return image, nearest(mask, (sides[-1], sides[-1]))

    return resized_view


def train_picture(dataset: Dataset, size: int, augment: Augment, seed: int) -> Picture:
    """Random views that depend on the seed, the id and the view's number alone."""

    def picture(view: View) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng(seed_of("view", seed, *view))
        return train_view(dataset.image(view.id), dataset.mask(view.id), size, augment, rng)

    return picture


def test_draw(episode: Episode) -> Draw:
    """A test episode; no base class is left out of the base map."""
    return Draw(episode.cls, View(episode.query), tuple(View(name) for name in episode.supports))


test_draw.__test__ = False


def base_labels(mask: Tensor, train_classes: list[int]) -> Tensor:
    """Class ids to labels of the base learner: background and novel classes 0, base classes 1.. ascending, 255."""
    table = torch.zeros(256, dtype=torch.long)
    table[torch.tensor(sorted(train_classes))] = torch.arange(1, len(train_classes) + 1)
    table[UNKNOWN] = UNKNOWN
    return table.to(mask.device)[mask.long()]
