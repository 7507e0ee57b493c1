"""What a GPU's time goes into, in training and evaluation at the published size: parts of a step, kernels, memory.

Weights and images are random, because times do not depend on them. Each way of computing takes turns with the others.

    python benchmarks/gpu_step.py --out gpu-step
    python benchmarks/gpu_step.py --device cpu --size 65 --batch 2 --rounds 1 --out trial
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from step import paper_options
from torch import Tensor, nn

from i2r.config import schema
from i2r.config.training import Schedule
from i2r.engine.feature_cache import TOGETHER, CachedEncoder, Draw
from i2r.engine.graphs import WARM, Recorded
from i2r.engine.images import View
from i2r.engine.trainer import build_optimiser, moment, synchronise
from i2r.nets.backbone.base import build_backbone
from i2r.nets.encoder import Encoder, EpisodeInputs, encode_episode
from i2r.nets.networks import build_meta_learner
from i2r.nets.pspnet import PSPNet
from i2r.pipeline.estimate import multiply_adds

STEPS = 570_000  # of PASCAL-5i's four folds: 200 epochs of some 5700 images in batches of 8
# name -> network, precision of the backbone, precision of the training, graph
WAYS = {
    "I2R, backbone in bf16, graph": ("i2r", "bf16", "fp32", True),
    "I2R, fp32": ("i2r", "fp32", "fp32", False),
    "I2R, bf16": ("i2r", "fp32", "bf16", False),
    "I2R, bf16, backbone too": ("i2r", "bf16", "bf16", False),
    "I2R, fp32, graph": ("i2r", "fp32", "fp32", True),
    "I2R, bf16, graph": ("i2r", "fp32", "bf16", True),
    "I2R, bf16, backbone too, graph": ("i2r", "bf16", "bf16", True),
    "BAM, fp32": ("bam", "fp32", "fp32", False),
    "BAM, bf16, backbone too, graph": ("bam", "bf16", "bf16", True),
}
SHORT = 5e-6  # seconds; what starts and ends a kernel of this length takes as long as what it does


class Way:
    """One way of computing a training step of random episodes.

    Args:
        changes: values of the network's options that differ from the paper's.
    """

    def __init__(self, name: str, options: argparse.Namespace, **changes: Any) -> None:
        network, backbone, self.precision, graph = WAYS[name]
        self.device = torch.device(options.device)
        self.options = paper_options(network, **{"ensemble": True} | changes)
        torch.manual_seed(0)
        frozen = build_backbone(schema.Backbone(name=options.backbone))
        self.encoder = Encoder(frozen, PSPNet(2048, 15), backbone).to(self.device)
        self.learner = build_meta_learner(self.options, frozen.layout, 1).to(self.device).train()
        schedule = Schedule(steps=1000, batch=options.batch, lr=1e-4, optimiser="sgd", momentum=0.9)
        self.optimiser = build_optimiser([(1.0, self.learner.parameters())], schedule)
        self.episodes = episodes(options, self.device)
        self.recorded = None
        if graph and self.device.type == "cuda":
            self.recorded = Recorded(self.compute, self.learner.parameters(), name)

    def inputs(self) -> EpisodeInputs:
        query, supports, masks, mask_q, classes = self.episodes
        return encode_episode(self.encoder, query, supports, masks, self.options, mask_q, classes)

    def forward(self, inputs: EpisodeInputs) -> Tensor:
        lower = self.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=lower):
            return self.learner(inputs).loss

    def forward_only(self, inputs: EpisodeInputs) -> Tensor:
        lower = self.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=lower):
            return self.learner(inputs).final_logits

    def compute(self, *_: Tensor) -> dict[str, Tensor]:
        return {"loss": self.forward(self.inputs())}

    def step(self) -> dict[str, Any]:
        """Moments between the parts, and the loss."""
        self.optimiser.zero_grad(set_to_none=True)
        moments = [moment(self.device)]
        if self.recorded:
            loss = self.recorded(*self.episodes)["loss"]
            moments += [moment(self.device)]
        else:
            inputs = self.inputs()
            moments += [moment(self.device)]
            loss = self.forward(inputs)
            moments += [moment(self.device)]
            loss.backward()
            moments += [moment(self.device)]
        self.optimiser.step()
        return {"moments": [*moments, moment(self.device)], "loss": loss}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=473, help="side of the images, pixels")
    parser.add_argument("--batch", type=int, default=8, help="episodes")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", help="part of the names of the ways to measure")
    parser.add_argument("--tasks", nargs="+", help="of agreement, steps, evaluation; default: all")
    parser.add_argument("--out", type=Path, default=Path("gpu-step"), help="folder of the tables")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"machine": machine(options), "steps": {}, "kernels": {}, "evaluation": {}}
    tasks: dict[str, Callable[[], Any]] = {
        "agreement": lambda: agreement(options),
        "steps": lambda: steps(options),
        "evaluation": lambda: evaluation(options),
    }
    for name in options.tasks or tasks:
        try:
            found[name] = tasks[name]()
        except Exception as error:  # the other tables are worth having
            found[name] = {"failed": f"{type(error).__name__}: {error}"}
        (options.out / "gpu_step.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
        print(json.dumps({name: found[name]}, indent=1), flush=True)
    write_table(found, options)


def machine(options: argparse.Namespace) -> dict[str, Any]:
    """What was measured on, with the rates of a large product and a large copy."""
    known: dict[str, Any] = {"torch": torch.__version__, "size": options.size, "batch": options.batch}
    if not options.device.startswith("cuda"):
        return known | {"card": "CPU"}
    known |= {"card": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    side = 8192
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    known["bf16_tflops"] = 2 * side**3 / median_time(lambda: a @ b) / 1e12
    source = torch.randn(2**28, device="cuda")
    target = torch.empty_like(source)
    known["copy_tb_s"] = 2 * source.nbytes / median_time(lambda: target.copy_(source)) / 1e12
    return known


def median_time(task: Callable[[], Any], rounds: int = 10) -> float:
    """Median seconds of a task on the GPU."""
    device, spent = torch.device("cuda"), []
    for _ in range(rounds + 3):
        began = moment(device)
        task()
        ended = moment(device)
        torch.cuda.synchronize()
        spent.append(began.elapsed_time(ended) / 1000)
    return statistics.median(spent[3:])


def episodes(options: argparse.Namespace, device: torch.device) -> list[Tensor]:
    """Random episodes: queries, supports, masks of the supports, of the queries, classes."""
    batch, size = options.batch, options.size
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, batch, 3, size, size, generator=generator)
    masks = torch.zeros(batch, size, size, dtype=torch.uint8)
    masks[:, size // 4 : size // 2, size // 3 : 2 * size // 3] = 1
    parts = images[0], images[1][:, None], masks[:, None], masks, torch.arange(batch) % 15
    return [part.to(device) for part in parts]


def agreement(options: argparse.Namespace) -> dict[str, float]:
    """Relative differences of loss and gradients between this device and a CPU, in fp32 without TF32 and dropout."""
    small = argparse.Namespace(**vars(options) | {"size": 129, "batch": 2})
    found = []
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    for device in ("cpu", options.device):
        way = Way("I2R, fp32", argparse.Namespace(**vars(small) | {"device": device}))
        for part in way.learner.modules():
            if isinstance(part, (nn.Dropout, nn.Dropout2d)):
                part.p = 0.0
        loss = way.step()["loss"].detach()
        gradients = [p.grad.flatten().double().cpu() for p in way.learner.parameters() if p.grad is not None]
        found.append((float(loss), torch.cat(gradients)))
    torch.backends.cudnn.allow_tf32 = before
    (loss, right), (loss_here, here) = found
    return {
        "loss": abs(loss_here - loss) / loss,
        "gradients": float((here - right).norm() / right.norm()),
        "loss_value": loss,
    }


def steps(options: argparse.Namespace) -> dict[str, Any]:
    """For each way: seconds of a step and of its parts, peak memory, and its kernels."""
    found: dict[str, Any] = {}
    for name in (name for name in WAYS if (options.only or "") in name):
        try:
            found[name] = measured(Way(name, options), options)
        except Exception as error:  # one way may fail
            found[name] = {"failed": f"{type(error).__name__}: {error}"}
        if options.device.startswith("cuda"):
            torch.cuda.empty_cache()
    return found


def measured(way: Way, options: argparse.Namespace) -> dict[str, Any]:
    cuda = way.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    spent, parts = [], []
    for number in range(options.rounds + WARM + 2):
        torch.manual_seed(number)
        began = synchronise(way.device)
        out = way.step()
        issued = time.perf_counter() - began
        spent.append((synchronise(way.device) - began, issued))
        moments = out["moments"]
        parts.append([a.elapsed_time(b) / 1000 if cuda else b - a for a, b in pairwise(moments)])
    kept = slice(WARM + 2, None) if options.rounds > 1 else slice(None)
    names = (
        ["replay_s", "optimiser_s"] if way.recorded else ["encode_s", "decode_s", "backward_s", "optimiser_s"]
    )
    seconds = sorted(second for second, _ in spent[kept])
    result: dict[str, Any] = {
        "seconds": statistics.median(seconds),
        "range": [seconds[0], seconds[-1]],
        "issued_s": statistics.median(issued for _, issued in spent[kept]),
        "loss": float(out["loss"].detach()),
    }
    result |= {name: statistics.median(row[at] for row in parts[kept]) for at, name in enumerate(names)}
    if cuda:
        result["memory_gb"] = torch.cuda.max_memory_allocated() / 2**30
        result["kernels"] = kernels(way)
    return result


def kernels(way: Way, rounds: int = 3) -> dict[str, Any]:
    """What the kernels of a step take: number, seconds, share in longer ones, and the longest by name."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        began = synchronise(way.device)
        for _ in range(rounds):
            way.step()
        wall = (synchronise(way.device) - began) / rounds
    lengths: dict[str, list[float]] = {}
    for event in profile.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            lengths.setdefault(event.name, []).append(event.device_time_total / 1e6)
    everything = [second for own in lengths.values() for second in own]
    longest = sorted(lengths.items(), key=lambda item: -sum(item[1]))[:12]
    return {
        "number": len(everything) / rounds,
        "seconds": sum(everything) / rounds,
        "in_long_ones": sum(second for second in everything if second > SHORT) / rounds,
        "wall_s": wall,
        "longest": {name[:90]: [1000 * sum(own) / rounds, len(own) / rounds] for name, own in longest},
    }


def evaluation(options: argparse.Namespace) -> dict[str, float]:
    """Episodes a second through the meta learner with features at hand, and images a second through the encoder."""
    found: dict[str, float] = {}
    for name in ("I2R, fp32", "I2R, bf16, backbone too, graph"):
        way = Way(name, options)
        way.learner.eval()
        with torch.no_grad():
            inputs = way.inputs()
            for losses in (True, False):
                if not losses:
                    inputs.mask_q = None
                rate = per_second(
                    lambda way=way, inputs=inputs: way.forward_only(inputs), options, way.device
                )
                rate *= options.batch
                found[f"{name}, {'with' if losses else 'without'} the query's mask: episodes/s"] = rate
            for number in (1, options.batch):
                images = way.episodes[0][:number]
                rate = per_second(
                    lambda way=way, images=images: way.encoder.images(images), options, way.device
                )
                found[f"{name}, {number} images at a time: batches/s"] = rate
            for how, pixels in (("one by one", 0), ("together", TOGETHER)):
                rate = per_second(lambda way=way, pixels=pixels: new_inputs(way, pixels), options, way.device)
                found[f"{name}, episodes of new images {how}: episodes/s"] = rate * options.batch
    return found


def new_inputs(way: Way, together: int) -> EpisodeInputs:
    """The inputs of a batch of test episodes, of which nothing is kept. Reading images takes no time.

    Args:
        together: pixels that are encoded together.
    """
    query, supports, masks, mask_q, _ = way.episodes
    images, labels = torch.cat([query, supports[:, 0]]), torch.cat([mask_q, masks[:, 0]])
    cached = CachedEncoder(
        way.encoder,
        way.options,
        lambda view: (images[view.number], labels[view.number]),
        0.0,
        way.device,
    )
    cached.together = together
    batch = len(query)
    return cached.inputs([Draw(1, View("", place), (View("", batch + place),)) for place in range(batch)])


def per_second(task: Callable[[], Any], options: argparse.Namespace, device: torch.device) -> float:
    for _ in range(3):
        task()
    began = synchronise(device)
    for _ in range(options.rounds):
        task()
    return options.rounds / (synchronise(device) - began)


def write_table(found: dict[str, Any], options: argparse.Namespace) -> None:
    """gpu_step.csv, with the bound of multiply-adds and the hours of STEPS."""
    about, rows = found["machine"], []
    for name, row in found["steps"].items():
        network = WAYS[name][0] if name in WAYS else "i2r"
        adds = multiply_adds().get(("train", network, options.backbone, str(options.size), "1"))
        bound = 2e9 * adds * options.batch / 1e12 / about.get("bf16_tflops", 1) if adds else None
        kept = {key: value for key, value in row.items() if not isinstance(value, (dict, list))}
        kernel = row.get("kernels", {})
        kept |= {
            f"kernels_{key}": kernel[key] for key in ("number", "seconds", "in_long_ones") if key in kernel
        }
        hours = STEPS * row["seconds"] / 3600 if "seconds" in row else None
        rows.append({"way": name, **kept, "bound_s": bound, "hours": hours})
    with (options.out / "gpu_step.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, dict.fromkeys(key for row in rows for key in row))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
