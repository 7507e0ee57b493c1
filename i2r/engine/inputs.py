"""What a job finds made before it: the frozen networks, the data set and its lists."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from i2r.config.networks import NetworkOptions
from i2r.config.schema import FROM_ONE_SHOT, Backbone
from i2r.data.dataset import Dataset, open_dataset
from i2r.data.sources import open_source
from i2r.data.transforms import UNKNOWN
from i2r.files import read_json
from i2r.nets.encoder import Encoder
from i2r.nets.io.network_file import open_network, read_about
from i2r.nets.io.weights import open_encoder
from i2r.pipeline.jobs import Job, JobError

WEIGHTS = "weights.safetensors"
IMAGENET = 1000  # classes of its classifiers
FROZEN = ("backbone", "base_learner", "cam_head")  # roles of the jobs that make the frozen networks


def job_encoder(job: Job, device: torch.device, options: NetworkOptions | None = None) -> Encoder:
    """The frozen networks of a job, on a device, for a network of these options; see frozen_networks."""
    return frozen_networks(job.inputs, job.params["backbone"], options, whole_network(job)).to(device)


def whole_network(job: Job) -> Path | None:
    """The file of a whole network that the job's network is, or starts from; None where there is none.

    Such a network's meta learner fits no other frozen part than its own.
    """
    train = job.params.get("train", {})
    trained = job.inputs["train"] / WEIGHTS if "train" in job.inputs else None
    file = train.get("weights") or train.get("start") or trained
    if not file or file == FROM_ONE_SHOT or read_about(file) is None:
        return None
    return Path(file)


def frozen_networks(
    inputs: Mapping[str, Path],
    backbone: Mapping[str, Any],
    options: NetworkOptions | None = None,
    network: Path | None = None,
) -> Encoder:
    """Backbone, with the base learner and the CAM head if there are any.

    Where nothing looks at the base learner's logits, it is left out.

    Args:
        inputs: folders of finished jobs, "backbone" and so on.
        backbone: that section of params.
        options: of the network that will look at the features.
        network: a whole network's file, whose frozen part is taken instead.

    Raises:
        JobError: if network.class_source is table, and the classifier's classes are neither ImageNet's nor the
            data set's own.
    """
    if network is not None:
        encoder = open_network(network).encoder
    else:
        files = {role: inputs[role] / WEIGHTS for role in FROZEN if role in inputs}
        encoder = open_encoder(Backbone(**backbone), **files)
    if options is None or not options.uses_base_learner:
        encoder.base_learner = None
    if options is not None and options.uses_cam and options.class_source == "table":
        index = read_json(inputs["data"] / "index.json")
        imagenet = open_source(index["source"]).imagenet
        encoder.class_table = class_table(
            index["classes"], encoder.backbone.classifier.out_features, imagenet
        )
    return encoder


def start_file(job: Job) -> str | Path | None:
    """The weights that the job's training starts from: a file, those of its method with one shot, or none."""
    start = job.params["train"].get("start")
    return job.inputs["start"] / WEIGHTS if start == FROM_ONE_SHOT else start


def class_table(names: list[str], classes: int, imagenet: Mapping[str, int]) -> Tensor:
    """The class of a classifier of so many classes that stands for each class of a data set, (C,) int64.

    A classifier with as many classes as the data set is one of them, in their order; for one of ImageNet's classes
    `imagenet` says which stands for each name.

    Raises:
        JobError: if there is no such table.
    """
    if classes == len(names):
        return torch.arange(classes)
    if classes != IMAGENET or not set(names) <= set(imagenet):
        raise JobError(
            f"network.class_source: table: nothing says which of the classifier's {classes} classes stand for "
            f"{', '.join(names[:3])} ...; take episode or majority"
        )
    return torch.tensor([imagenet[name] for name in names])


def job_dataset(job: Job) -> Dataset:
    """The data set of a job."""
    return open_dataset(job.inputs["data"], job.data_root)


def job_lists(job: Job) -> dict[str, Any]:
    """The fold's lists, see data.lists.fold_lists."""
    return read_json(job.inputs["lists"] / "lists.json")


def base_labels(mask: Tensor, train_classes: list[int]) -> Tensor:
    """Class ids to labels of the base learner: background and novel classes 0, base classes 1.. ascending, 255."""
    table = torch.zeros(256, dtype=torch.long)
    table[torch.tensor(sorted(train_classes))] = torch.arange(1, len(train_classes) + 1)
    table[UNKNOWN] = UNKNOWN
    return table.to(mask.device)[mask.long()]
