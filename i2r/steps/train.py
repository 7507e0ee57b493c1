"""The train step: the meta learner of a network, trained on episodes of the fold's training classes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from i2r.config.networks import NetworkOptions, network_options
from i2r.config.schema import Train
from i2r.data.dataset import Dataset
from i2r.data.episodes import Episode, train_episode
from i2r.data.paste import image_and_mask
from i2r.data.transforms import binary, normalised, train_pixels
from i2r.engine.attention_probe import AttentionProbe, support_iou
from i2r.engine.feature_cache import CachedEncoder, Draw
from i2r.engine.graphs import Recorded
from i2r.engine.held_out import held_out_draws, miou
from i2r.engine.images import View, evaluation_reader, load_steps, training_reader
from i2r.engine.inputs import job_dataset, job_encoder, job_lists, start_file, whole_network
from i2r.engine.processes import shared
from i2r.engine.trainer import Value, fit, moment, seed_of, set_up, synchronise
from i2r.engine.validation import Validation, kept_files
from i2r.nets.encoder import Encoder, EpisodeInputs, encode_episode
from i2r.nets.io.network_file import Network, describe, load_meta_learner, read_about, save_network
from i2r.nets.io.weights import write_tensors
from i2r.nets.networks import build_meta_learner
from i2r.nets.output import Output
from i2r.nets.whole_batch import mean, places, total
from i2r.pipeline.jobs import Job
from i2r.pipeline.steps import KEPT

PROBES = 50  # steps of a training in which the attention is measured


class Batch(NamedTuple):
    """Inputs of a step's episodes, and the times of loading and encoding them."""

    inputs: EpisodeInputs
    load_s: Value
    encode_s: Value


@shared
def run(job: Job) -> dict[str, Any]:
    """Train and write weights.safetensors of the meta learner; with validations also best.safetensors, and with
    train.checkpoints the folder checkpoints/.

    A training that starts from a network file writes a network file again, because the meta learner fits only the
    frozen networks of that file.
    """
    device = set_up(job.runtime, job.threads)
    options = network_options(job.params["network"])
    images = len(job_lists(job)["train"])
    train = Train(**job.params["train"]).over(images)
    encoder = job_encoder(job, device, options)
    # "head" only names this random stream; another name would give other first weights
    torch.manual_seed(seed_of("head", job.args["fold"], job.args["seed"]))
    meta_learner = build_meta_learner(options, encoder.layout, job.args["shot"])
    if start := start_file(job):
        load_meta_learner(meta_learner, start, shots_may_differ=True)
    meta_learner.to(device).train()
    losses = losses_of(job, train, options, encoder, meta_learner, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    validation = None
    if train.validate_every:
        held_out_miou = validated(job, encoder, options, train, meta_learner, device)
        validation = Validation(train.validations(images), held_out_miou)
    save = partial(save_trained, job, options, encoder, meta_learner)
    metrics = fit(
        job,
        meta_learner,
        train,
        losses,
        label=f"train {job.label}",
        validation=validation,
        after=keeping(job.state / KEPT, train.kept_steps(), save),
    )
    if device.type == "cuda":
        metrics["gpu_memory_gb"] = torch.cuda.max_memory_allocated(device) / 2**30
    for file in kept_files(meta_learner, validation, "last"):
        save(job.out / file)
    if train.checkpoints:  # copied, for the job can still be killed
        shutil.copytree(job.state / KEPT, job.out / KEPT, ignore=shutil.ignore_patterns(".*"))
    return metrics | ({"best_step": validation.best_step} if validation else {})


def losses_of(
    job: Job,
    train: Train,
    options: NetworkOptions,
    encoder: Encoder,
    meta_learner: nn.Module,
    device: torch.device,
) -> Callable[[int], Mapping[str, Value]]:
    """Step -> losses of its batch, and what is logged beside them."""
    forward = forward_of(meta_learner, train, device)
    if train.augment.views:
        next_batch = kept_batches(job, encoder, options, train, device)
    else:
        load = fresh_tensors(job, train, device)
        encode = encoded(job, encoder, options, device)
        next_batch = fresh_batches(load, encode, device)
    recorded = None
    if job.runtime.cuda_graphs and device.type == "cuda" and not train.augment.views:
        recorded = Recorded(lambda *parts: forward(encode(*parts))[1], meta_learner.parameters(), job.label)

    def losses(step: int) -> Mapping[str, Value]:
        probing = step % max(1, train.steps // PROBES) == 0
        if recorded and not probing:
            tensors, load_s = load(step)
            began = moment(device)
            return recorded(*tensors) | {"load_s": load_s, "replay_s": (began, moment(device))}
        inputs, load_s, encode_s = next_batch(step)
        began = moment(device)
        with AttentionProbe(meta_learner) if probing else nullcontext() as probe:
            output, values = forward(inputs)
        if probe:
            values |= probed(probe, output, inputs)
        return values | {"load_s": load_s, "encode_s": encode_s, "decode_s": (began, moment(device))}

    return losses


def forward_of(
    meta_learner: nn.Module, train: Train, device: torch.device
) -> Callable[[EpisodeInputs], tuple[Output, dict[str, Tensor]]]:
    """Inputs of a batch -> the network's output in the precision of the training, and the values of the step."""
    dtype = torch.bfloat16 if train.precision == "bf16" else torch.float32

    def forward(inputs: EpisodeInputs) -> tuple[Output, dict[str, Tensor]]:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            output: Output = meta_learner(inputs)
        values = {"loss": output.loss, **output.losses}
        seen = (inputs.masks_s == 1).flatten(2).any(2)  # (B, K)
        values["vanished_supports"] = total((~seen).sum())
        if output.mask_ratio:
            values["mask_ratio"] = mean(torch.stack(output.mask_ratio).mean(), 1)
        return output, values

    return forward


def probed(probe: AttentionProbe, output: Output, inputs: EpisodeInputs) -> dict[str, float]:
    """What the cross-attention and the support branch do in this step, as far as the network has them."""
    found, iou = probe.means(), support_iou(output, inputs.masks_s)
    return found if iou is None else found | {"support_iou": 100 * iou}


def validated(
    job: Job,
    encoder: Encoder,
    options: NetworkOptions,
    train: Train,
    meta_learner: nn.Module,
    device: torch.device,
) -> Callable[[], float]:
    """The score of the meta learner's validations, see held_out.py."""
    dataset = job_dataset(job)
    draws = held_out_draws(dataset.index, job_lists(job), train.validation_episodes, job.args["shot"])
    memory = 0 if train.augment.views else job.runtime.cache_gb  # kept views have the memory
    read = evaluation_reader(dataset, job.params["data"]["size"])
    cached = CachedEncoder(encoder, options, read, memory, device, job.runtime.workers)
    return lambda: miou(meta_learner, cached, draws)


def keeping(folder: Path, steps: Collection[int], save: Callable[[Path], None]) -> Callable[[int], None]:
    """A function of the number of steps done, which saves STEP.safetensors to the folder after each of these steps."""
    folder.mkdir(parents=True, exist_ok=True)

    def keep(done: int) -> None:
        if done in steps:
            save(folder / f"{done}.safetensors")

    return keep


def save_trained(
    job: Job, options: NetworkOptions, encoder: Encoder, meta_learner: nn.Module, path: Path
) -> None:
    """Write the meta learner, or a network file if the training started from one."""
    start = whole_network(job)
    if start is None:
        write_tensors(path, meta_learner.state_dict())
        return
    backbone = read_about(start)
    size, shots = job.params["data"]["size"], job.args["shot"]
    about = describe(backbone["backbone"], options, shots, size, backbone["stride_at"])
    save_network(Network(encoder, meta_learner).state_dict(), about, path)


def drawn_episode(lists: dict[str, Any], args: dict[str, Any], train: Train, index: int) -> Episode:
    """Training episode number `index` of a job."""
    return train_episode(
        lists,
        args["seed"],
        args["fold"],
        index,
        args["shot"],
        train.sampling,
        reduced=train.augment.fit,
        paste=train.paste,
        views=train.augment.views,
    )


def kept_batches(
    job: Job, encoder: Encoder, options: NetworkOptions, train: Train, device: torch.device
) -> Callable[[int], Batch]:
    """Step -> batch, from a fixed number of views of each image, whose features are cached.

    Steps must be requested in order, without gaps.
    """
    lists, size = job_lists(job), job.params["data"]["size"]
    fold, seed, shots = job.args["fold"], job.args["seed"], job.args["shot"]
    read = training_reader(job_dataset(job), size, train.augment, seed)
    cached = CachedEncoder(encoder, options, read, job.runtime.cache_gb, device, job.runtime.workers)
    begun = False

    def draw(index: int) -> Draw:
        episode = drawn_episode(lists, job.args, train, index)
        numbers = np.random.default_rng(seed_of("views", fold, seed, index)).integers(
            train.augment.views, size=1 + shots
        )
        query, *supports = (
            View(name, int(number))
            for name, number in zip((episode.query, *episode.supports), numbers, strict=True)
        )
        if episode.pasted:  # it is a view of its own
            query = View(episode.query, pasted=episode.pasted)
        return Draw(episode.cls, query, tuple(supports), lists["train_classes"].index(episode.cls))

    def draws(step: int) -> list[Draw]:
        return [draw(step * train.batch + place) for place in places(train.batch)]

    def batch(step: int) -> Batch:
        nonlocal begun
        if not begun:
            cached.expect(map(draws, range(step, train.steps)))
            begun = True
        began, loaded = synchronise(device), cached.loading_s
        inputs = cached.inputs(draws(step), losses=True)
        load_s = cached.loading_s - loaded
        return Batch(inputs, load_s, synchronise(device) - began - load_s)

    return batch


def fresh_tensors(
    job: Job, train: Train, device: torch.device
) -> Callable[[int], tuple[list[Tensor], float]]:
    """Step -> tensors of a batch of new views, on the device, and the seconds of waiting for them.

    The tensors: queries (B, 3, S, S) and supports (B, K, 3, S, S), normalised; masks of the supports (B, K, S, S) and
    of the queries (B, S, S); base classes (B,). Steps must be requested in order, without gaps.
    """
    read = partial(
        fresh_episode, job_dataset(job), job_lists(job), job.args, job.params["data"]["size"], train
    )
    of_step = load_steps(read, train.steps, train.batch, job.runtime.workers, device)

    def tensors(step: int) -> tuple[list[Tensor], float]:
        began = time.perf_counter()
        query, supports, *others = of_step(step)
        load_s = time.perf_counter() - began
        return [normalised(query), normalised(supports), *others], load_s

    return tensors


def encoded(
    job: Job, encoder: Encoder, options: NetworkOptions, device: torch.device
) -> Callable[..., EpisodeInputs]:
    """The tensors of a batch, see fresh_tensors -> inputs of the meta learner."""
    train_classes = torch.tensor(job_lists(job)["train_classes"], device=device)

    def encode(
        query: Tensor, supports: Tensor, masks: Tensor, mask_q: Tensor, base_class: Tensor
    ) -> EpisodeInputs:
        classes = train_classes[base_class]
        return encode_episode(encoder, query, supports, masks, options, mask_q, base_class, classes=classes)

    return encode


def fresh_batches(
    load: Callable[[int], tuple[list[Tensor], float]],
    encode: Callable[..., EpisodeInputs],
    device: torch.device,
) -> Callable[[int], Batch]:
    """Step -> batch of new views, encoded together."""

    def batch(step: int) -> Batch:
        tensors, load_s = load(step)
        began = moment(device)
        return Batch(encode(*tensors), load_s, (began, moment(device)))

    return batch


def fresh_episode(
    dataset: Dataset, lists: dict[str, Any], args: dict[str, Any], size: int, train: Train, index: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """Training episode number `index`, with a new view of each image that holds most of the object.

    Returns:
        Query (S, S, 3), supports (K, S, S, 3), not normalised; masks of the supports (K, S, S) and of the query (S, S);
        and its base class.
    """
    fold, seed = args["fold"], args["seed"]
    episode = drawn_episode(lists, args, train, index)
    rng = np.random.default_rng(seed_of("fresh views", fold, seed, index))

    def views() -> Iterator[tuple[Tensor, Tensor]]:
        shown = ((episode.query, episode.pasted), *((name, None) for name in episode.supports))
        for image, mask in (image_and_mask(dataset, *one) for one in shown):
            view, labels = train_pixels(image, mask, size, train.augment, rng, episode.cls)
            yield view, binary(labels, episode.cls)

    (query, mask_q), *supports = views()
    images, masks = (torch.stack(part) for part in zip(*supports, strict=True))
    return query, images, masks, mask_q, lists["train_classes"].index(episode.cls)
