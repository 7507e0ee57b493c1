"""Training of the learned part on episodes of the fold's training classes; one loop for every method."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from i2r.config.schema import Method, Train
from i2r.data.dataset import Dataset
from i2r.data.episodes import train_episode
from i2r.data.transforms import binary, train_view
from i2r.engine.feature_cache import CachedEncoder, Draw, View
from i2r.engine.inputs import WEIGHTS, job_dataset, job_encoder, job_lists, start_file, train_picture
from i2r.engine.trainer import fit, seed_of, set_up, synchronise
from i2r.nets.encoder import Encoder, EpisodeInputs, encode_episode
from i2r.nets.heads import build_head
from i2r.nets.io.network_file import load_head
from i2r.nets.output import Output
from i2r.pipeline.jobs import Job


class Batch(NamedTuple):
    """Inputs of a step's episodes, and the seconds that they took to load and to encode."""

    inputs: EpisodeInputs
    load_s: float
    encode_s: float


def run(job: Job) -> dict[str, Any]:
    """Train and write weights.safetensors of the learned part."""
    device = set_up(job.runtime)
    options = Method(**job.params["method"])
    train = Train(**job.params["train"]).over(len(job_lists(job)["train"]))
    fold, seed, shots = job.args["fold"], job.args["seed"], job.args["shot"]
    encoder = job_encoder(job, device)
    torch.manual_seed(seed_of("head", fold, seed))
    head = build_head(options, encoder.channels, shots)
    if start := start_file(job):
        load_head(head, start, shots_may_differ=True)
    head.to(device).train()
    batches = kept_batches if train.augment.views else fresh_batches
    next_batch = batches(job, encoder, options, train, device)
    dtype = torch.bfloat16 if train.precision == "bf16" else torch.float32

    def losses(step: int) -> Mapping[str, Tensor | float]:
        inputs, load_s, encode_s = next_batch(step)
        began = synchronise(device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            output: Output = head(inputs)
        values = {"loss": output.loss, "main": output.main, "aux1": output.aux1, "aux2": output.aux2}
        if output.mask_ratio:
            values["mask_ratio"] = torch.stack(output.mask_ratio).mean()
        decode_s = synchronise(device) - began
        return values | {"load_s": load_s, "encode_s": encode_s, "decode_s": decode_s}

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    metrics = fit(job, head, train, losses, label=f"train {job.name}")
    if device.type == "cuda":
        metrics["gpu_memory_gb"] = torch.cuda.max_memory_allocated(device) / 2**30
    state = {name: tensor.contiguous().cpu() for name, tensor in head.state_dict().items()}
    save_file(state, job.out / WEIGHTS)
    return metrics


def kept_batches(
    job: Job, encoder: Encoder, options: Method, train: Train, device: torch.device
) -> Callable[[int], Batch]:
    """Step -> batch, from a fixed number of views of each picture, whose features are kept."""
    dataset, lists = job_dataset(job), job_lists(job)
    fold, seed, shots = job.args["fold"], job.args["seed"], job.args["shot"]
    picture = train_picture(dataset, job.params["data"]["size"], train.augment, seed)
    cached = CachedEncoder(encoder, options, picture, job.runtime.cache_gb, device)

    def draw(index: int) -> Draw:
        episode = train_episode(lists, seed, fold, index, shots, train.sampling)
        numbers = np.random.default_rng(seed_of("views", fold, seed, index)).integers(
            train.augment.views, size=1 + shots
        )
        query, *supports = (
            View(name, int(number))
            for name, number in zip((episode.query, *episode.supports), numbers, strict=True)
        )
        return Draw(episode.cls, query, tuple(supports), lists["train_classes"].index(episode.cls))

    def batch(step: int) -> Batch:
        began, loaded = synchronise(device), cached.loading_s
        inputs = cached.inputs([draw(step * train.batch + place) for place in range(train.batch)])
        load_s = cached.loading_s - loaded
        return Batch(inputs, load_s, synchronise(device) - began - load_s)

    return batch


def fresh_batches(
    job: Job, encoder: Encoder, options: Method, train: Train, device: torch.device
) -> Callable[[int], Batch]:
    """Step -> batch of new views, encoded together. Steps must follow one another from the first that is asked for.

    Processes that load (runtime.workers) change nothing: an episode depends on its number alone.
    """
    lists = job_lists(job)
    source = FreshEpisodes(job_dataset(job), lists, job.args, job.params["data"]["size"], train)
    train_classes = torch.tensor(lists["train_classes"], device=device)
    loader: Iterator[Sequence[Tensor]] | None = None

    def batch(step: int) -> Batch:
        nonlocal loader
        began = time.perf_counter()
        if loader is None:
            loader = iter(
                DataLoader(
                    source,
                    train.batch,
                    sampler=range(step * train.batch, train.steps * train.batch),
                    num_workers=job.runtime.workers,
                    worker_init_fn=quiet_worker,
                    pin_memory=device.type == "cuda",
                    generator=torch.Generator(),  # else the loader would draw from the one that dropout uses
                )
            )
        query, supports, masks, mask_q, base_class = (t.to(device, non_blocking=True) for t in next(loader))
        loaded = synchronise(device)
        classes = train_classes[base_class]
        inputs = encode_episode(encoder, query, supports, masks, options, mask_q, base_class, classes=classes)
        return Batch(inputs, loaded - began, synchronise(device) - loaded)

    return batch


class FreshEpisodes(TorchDataset):
    """Training episode of every number, each picture in a view of its own that holds most of the object."""

    def __init__(
        self, dataset: Dataset, lists: dict[str, Any], args: dict[str, Any], size: int, train: Train
    ):
        self.dataset, self.lists, self.size, self.train = dataset, lists, size, train
        self.fold, self.seed, self.shots = args["fold"], args["seed"], args["shot"]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
        """Query (3, S, S), supports (K, 3, S, S), their masks (K, S, S), the query's (S, S) and its base class."""
        episode = train_episode(self.lists, self.seed, self.fold, index, self.shots, self.train.sampling)
        rng = np.random.default_rng(seed_of("fresh views", self.fold, self.seed, index))
        views = []
        for name in (episode.query, *episode.supports):
            image, mask = self.dataset.image(name), self.dataset.mask(name)
            view, labels = train_view(image, mask, self.size, self.train.augment, rng, episode.cls)
            views.append((view, binary(labels, episode.cls)))
        (query, mask_q), *supports = views
        images, masks = (torch.stack(part) for part in zip(*supports, strict=True))
        return query, images, masks, mask_q, self.lists["train_classes"].index(episode.cls)


def quiet_worker(_: int) -> None:
    """A loader's process leaves Ctrl-C to the job and ends when it is told to."""
    cv2.setNumThreads(0)
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
