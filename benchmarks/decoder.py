"""What the processor's time of a training step of I2R goes into, and what other ways of computing it would save.

Seconds are those of one thread, so other work on the machine disturbs them little. The ways take turns; a ratio is that
of the complete step with encoding. Weights and images are random, because times do not depend on them.

    python benchmarks/decoder.py --setting shapes
    python benchmarks/decoder.py --setting published --size 473
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from multiply_adds import Counter
from step import paper_options
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from i2r.config import schema
from i2r.config.load import load
from i2r.config.networks import NetworkOptions, network_options
from i2r.nets import i2r
from i2r.nets.backbone.base import build_backbone
from i2r.nets.decoder import attention
from i2r.nets.encoder import Encoder, EpisodeInputs, encode_episode
from i2r.nets.networks import build_meta_learner

KINDS = {  # of operations, by parts of their names
    "convolutions": ("conv",),
    "attention without a mask": ("scaled_dot_product",),
    "other products": ("mm.default", "bmm"),
}


# --- other ways: what is replaced, and by what ---------------------------------------------------------------


def one_product(self: attention.SelfAttention, x: Tensor) -> Tensor:
    """SelfAttention.forward with one product for query, key and value."""
    layers = self.Wq, self.Wk, self.Wv
    joined = F.linear(x, torch.cat([one.weight for one in layers]), torch.cat([one.bias for one in layers]))
    attended = F.scaled_dot_product_attention(*joined.chunk(3, -1))
    y = self.LN_attn(self.dropout(attended) + x)
    return self.LN_ffn(y + self.proj_out(y))


def explicit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention that keeps its map for the backward pass, instead of computing it again."""
    return attention._scores(q, k).softmax(-1) @ v


def by_onednn(self: nn.Linear, x: Tensor) -> Tensor:
    """A linear layer as a 1x1 convolution of one image for every row of cells, which torch gives to oneDNN."""
    cells = x.numel() // x.shape[-1]
    columns = next(number for number in (30, 21, 13, 9, 1) if cells % number == 0)
    images = x.reshape(-1, 1, columns, x.shape[-1]).permute(0, 3, 1, 2)
    return (
        F.conv2d(images, self.weight[:, :, None, None], self.bias)
        .permute(0, 2, 3, 1)
        .reshape(*x.shape[:-1], -1)
    )


def frozen_by_onednn(self: nn.Conv2d, x: Tensor) -> Tensor:
    """Conv2d.forward that gives the encoder's 1x1 convolutions to oneDNN.

    With one thread torch gives them to another library, which needs channels first, unless they have a stride or a
    dilation; to a 1x1 kernel a dilation means nothing.
    """
    plain = self.kernel_size == self.stride == (1, 1) and not self.weight.requires_grad
    dilation = 2 if plain else self.dilation
    return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, dilation, self.groups)


def no_loss(logits: Tensor, target: Tensor) -> Tensor:
    """No way of computing losses can save more than this."""
    return logits.mean()


WAYS: dict[str, list[tuple[Any, str, Callable]]] = {
    "as it is": [],
    "one product for query, key and value": [(attention.SelfAttention, "forward", one_product)],
    "attention with a kept map": [(F, "scaled_dot_product_attention", explicit)],
    "without losses (a bound)": [(i2r, "two_class_loss", no_loss)],
    "linear layers by oneDNN": [(nn.Linear, "forward", by_onednn)],
    "the encoder's 1x1 convolutions by oneDNN": [(nn.Conv2d, "forward", frozen_by_onednn)],
}


# --- measuring -----------------------------------------------------------------------------------------------


class Clock(TorchDispatchMode):
    """Seconds of each operation."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = defaultdict(float)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        began = time.thread_time()
        out = func(*args, **(kwargs or {}))
        self.seconds[str(func)] += time.thread_time() - began
        return out

    def by_kind(self) -> dict[str, float]:
        """Seconds of KINDS, and of everything else."""
        found: dict[str, float] = dict.fromkeys((*KINDS, "everything else"), 0.0)
        for name, spent in self.seconds.items():
            kinds = (kind for kind, parts in KINDS.items() if any(part in name for part in parts))
            found[next(kinds, "everything else")] += spent
        return found


class Setting:
    """Random episodes, and the networks for them."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.options: NetworkOptions
        if options.setting == "shapes":
            values = load(Path(__file__).parents[1] / "params.yaml").values
            self.options = network_options(values.network.model_dump())
            self.batch, self.size, backbone = values.train.batch, values.data.size, values.backbone
        else:
            self.options = paper_options("i2r", ensemble=False)
            self.batch, self.size, backbone = options.batch, options.size, schema.Backbone(name="resnet50")
        self.encoder = Encoder(build_backbone(backbone))
        self.learner = build_meta_learner(self.options, self.encoder.layout, 1).train()
        side = self.size
        self.images = torch.randn(2, self.batch, 3, side, side)
        self.masks = torch.zeros(self.batch, side, side, dtype=torch.uint8)
        self.masks[:, side // 4 : side // 2, side // 3 : 2 * side // 3] = 1

    def encode(self) -> EpisodeInputs:
        query, support = self.images
        return encode_episode(
            self.encoder, query, support[:, None], self.masks[:, None], self.options, self.masks
        )

    def loss(self, inputs: EpisodeInputs) -> Tensor:
        self.learner.zero_grad(set_to_none=True)
        return self.learner(inputs).loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--setting", choices=("shapes", "published"), default="shapes")
    parser.add_argument("--size", type=int, default=473, help="side of the images, pixels; published only")
    parser.add_argument("--batch", type=int, default=2, help="episodes; published only")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    setting = Setting(options)
    print(f"{options.setting}: {setting.batch} episodes of {setting.size} px, 1 shot, one thread")
    print(", ".join(f"{name}: {rate:.0f} billion multiply-adds/s" for name, rate in rates().items()))
    inputs = setting.encode()
    setting.loss(inputs).backward()  # warms up
    for name, task in parts(setting, inputs):
        with Clock() as clock:
            task()
        kinds = ", ".join(f"{kind} {1000 * spent:.0f}" for kind, spent in clock.by_kind().items())
        print(f"{name}, ms: {kinds}")
    with Counter() as counter, sdpa_kernel(SDPBackend.MATH):  # the fast attention is not counted
        setting.loss(inputs).backward()
    print(f"multiply-adds of forward and backward: {counter.operations / 2e9:.1f} billion")
    compare(setting, options.rounds)


def rates() -> dict[str, float]:
    """Billions of multiply-adds a second of a linear layer and of a 3x3 convolution of the published decoder."""
    cells, width = 2 * 30 * 30, 256
    tokens, weights = torch.randn(cells, width), torch.randn(width, width)
    maps = torch.randn(2, width, 30, 30).to(memory_format=torch.channels_last)
    kernel = torch.randn(width, width, 3, 3)
    tasks = {
        "linear layer": (cells * width**2, lambda: tokens @ weights),
        "3x3 convolution": (9 * cells * width**2, lambda: F.conv2d(maps, kernel, padding=1)),
    }
    found = {}
    for name, (count, task) in tasks.items():
        spent = []
        for _ in range(20):
            began = time.thread_time()
            task()
            spent.append(time.thread_time() - began)
        found[name] = count / statistics.median(spent) / 1e9
    return found


def parts(setting: Setting, inputs: EpisodeInputs) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The parts of a step."""
    yield "encoder", setting.encode
    kept: list[Tensor] = []
    yield "forward", lambda: kept.append(setting.loss(inputs))
    yield "backward", lambda: kept[0].backward()


def compare(setting: Setting, rounds: int) -> None:
    """Print the median seconds of the parts in each way, the ratio of the steps, and whether gradients are the same."""
    spent: dict[str, list[list[float]]] = {name: [] for name in WAYS}
    gradients: dict[str, list[Tensor]] = {}
    for number in range(rounds + 1):
        for name in WAYS:
            moments = [time.thread_time()]
            with replaced(name):
                inputs = setting.encode()
                moments.append(time.thread_time())
                torch.manual_seed(number)  # of dropout
                loss = setting.loss(inputs)
                moments.append(time.thread_time())
                loss.backward()
                moments.append(time.thread_time())
            if number:  # the first round warms up
                spent[name].append([b - a for a, b in pairwise(moments)])
            else:
                gradients[name] = [p.grad for p in setting.learner.parameters() if p.grad is not None]
    first = next(iter(WAYS))
    for name, rows in spent.items():
        ratios = sorted(sum(row) / sum(plain) for row, plain in zip(rows, spent[first], strict=True))
        encode, forward, backward = (1000 * statistics.median(column) for column in zip(*rows, strict=True))
        same = len(gradients[name]) == len(gradients[first])
        same = same and all(map(torch.equal, gradients[name], gradients[first]))
        print(
            f"{name:40} encoder {encode:6.0f}, forward {forward:6.0f}, backward {backward:6.0f} ms, step "
            f"{statistics.median(ratios):.3f} [{ratios[0]:.3f}, {ratios[-1]:.3f}], {'same' if same else 'other'} bytes"
        )


@contextmanager
def replaced(way: str) -> Iterator[None]:
    with ExitStack() as stack:
        for owner, name, function in WAYS[way]:
            stack.enter_context(patch.object(owner, name, function))
        yield


if __name__ == "__main__":
    main()
