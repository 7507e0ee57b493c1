"""What a job loads from earlier jobs: frozen networks, the data set and its lists."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from i2r.config.networks import NetworkOptions
from i2r.config.schema import FROM_ONE_SHOT, Backbone
from i2r.data.dataset import Dataset, open_dataset
from i2r.data.index_table import INDEX, read_summary
from i2r.data.sources import open_source
from i2r.data.transforms import unknown
from i2r.files import read_json
from i2r.nets.encoder import Encoder
from i2r.nets.io.network_file import open_network, read_about
from i2r.nets.io.weights import open_encoder
from i2r.pipeline.jobs import Job, JobError

WEIGHTS = "weights.safetensors"
IMAGENET = 1000  # number of classes of ImageNet classifiers
UNLABELLED = -1  # label of the base learner for unknown pixels; it can have more than 255 classes
FROZEN = ("backbone", "base_learner", "cam_head")  # roles of the jobs that make the frozen networks


class NoTableError(JobError):
    """There is no table from a data set's classes to those of the classifier."""


def job_encoder(job: Job, device: torch.device, options: NetworkOptions | None = None) -> Encoder:
    """The encoder of a job, on a device, for a network with these options; see frozen_networks."""
    return frozen_networks(job.inputs, job.params["backbone"], options, whole_network(job)).to(device)


def whole_network(job: Job) -> Path | None:
    """The network file that the job evaluates or starts from; None if there is none.

    Its meta learner fits only the frozen networks of the same file.
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
    """The encoder: backbone, with the CAM head if there is one, and the base learner if the network uses it.

    Args:
        inputs: role -> folder of a finished job.
        backbone: section backbone of params.
        options: of the network that uses the features.
        network: a network file, whose encoder is used instead.

    Raises:
        NoTableError: network.class_source is table, but the classifier's classes are neither those of ImageNet nor
            those of the data set.
    """
    if network is not None:
        encoder = open_network(network).encoder
    else:
        files = {role: inputs[role] / WEIGHTS for role in FROZEN if role in inputs}
        encoder = open_encoder(Backbone(**backbone), **files)
    if options is None or not options.uses_base_learner:
        encoder.base_learner = None
    if options is not None and options.uses_cam and options.class_source == "table":
        data = read_summary(inputs["data"] / INDEX)
        imagenet = open_source(data["source"]).imagenet
        encoder.class_table = class_table(data["classes"], encoder.backbone.classifier.out_features, imagenet)
    return encoder


def start_file(job: Job) -> str | Path | None:
    """The weights from which the job's training starts: a file, those of the 1-shot training, or none."""
    start = job.params["train"].get("start")
    return job.inputs["start"] / WEIGHTS if start == FROM_ONE_SHOT else start


def class_table(names: list[str], classes: int, imagenet: Mapping[str, int]) -> Tensor:
    """The classifier's class for each class of a data set, (C,) int64.

    Args:
        names: of the data set's classes, from class 1.
        classes: number of classes of the classifier. If the data set has as many, the classes are the same, but for
            ImageNet's number.
        imagenet: name -> class of an ImageNet classifier.

    Raises:
        NoTableError: there is no table for these classes.
    """
    if classes == len(names) != IMAGENET:
        return torch.arange(classes)
    if classes != IMAGENET or not set(names) <= set(imagenet):
        raise NoTableError(
            f"network.class_source: table: there is no table from the data set's classes ({', '.join(names[:3])} ...) "
            f"to the classifier's {classes} classes; use episode or majority"
        )
    return torch.tensor([imagenet[name] for name in names])


def job_dataset(job: Job) -> Dataset:
    """The data set of a job."""
    return open_dataset(job.inputs["data"], job.data_root)


def job_lists(job: Job) -> dict[str, Any]:
    """The fold's lists, see data.lists.fold_lists."""
    return read_json(job.inputs["lists"] / "lists.json")


def base_labels(mask: Tensor, train_classes: list[int]) -> Tensor:
    """Class ids, uint8 or int16, to labels of the base learner, int64.

    These are 0 for background and test classes, 1.. for training classes in ascending order, and UNLABELLED.
    """
    table = torch.zeros(torch.iinfo(mask.dtype).max + 1, dtype=torch.long)
    table[torch.tensor(sorted(train_classes))] = torch.arange(1, len(train_classes) + 1)
    table[unknown(mask)] = UNLABELLED
    return table.to(mask.device)[mask.long()]
