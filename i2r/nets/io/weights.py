"""Reading weights files safely, and loading them into the frozen networks.

The state of a backbone has the published names (layer0.0.weight ... layer4.2.bn3.bias, fc.weight), that of a
base learner ppm.* and cls.*. Files with torchvision's names can be read as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from i2r.config import schema
from i2r.errors import InputError
from i2r.files import replacing
from i2r.nets.backbone.base import Backbone, build_backbone
from i2r.nets.encoder import Encoder
from i2r.nets.pspnet import PSPNet

# First index of layers 0 to 4 in torchvision's `features` of these networks.
CUTS = {"squeezenet1_1": (0, 3, 6, 8, 11), "vgg16-bam": (0, 7, 14, 24, 34)}


class WeightsError(InputError):
    """A weights file that cannot be used; the message names the file and the problem."""


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors file, or of a PyTorch checkpoint (read without running any code in it).

    An enclosing `state_dict` and the prefix `module.` are removed; half precision becomes float32.

    Raises:
        WeightsError: the file is missing, unreadable, has no tensors, or one with NaN or infinity.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file")
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of many kinds for files that are no checkpoints
        if refused := re.search(r"GLOBAL (\S+) was not an allowed global", str(error)):
            raise WeightsError(
                f"{path}: contains a Python object ({refused[1]}), which is not loaded because that could run any "
                "code; if you trust the file, load it elsewhere and save only its state_dict"
            ) from None
        kind = "safetensors file" if path.suffix == ".safetensors" else "PyTorch checkpoint"
        raise WeightsError(
            f"{path}: not a readable weights file; its content is no complete {kind}"
        ) from None
    if isinstance(tensors, Mapping) and isinstance(tensors.get("state_dict"), Mapping):
        tensors = tensors["state_dict"]
    if isinstance(tensors, Mapping) and not all(isinstance(name, str) for name in tensors):
        raise WeightsError(f"{path}: contains no state dict: its keys are not names")
    if not isinstance(tensors, Mapping) or not any(isinstance(value, Tensor) for value in tensors.values()):
        raise WeightsError(f"{path}: contains no state dict of tensors")
    found = {name: value for name, value in tensors.items() if isinstance(value, Tensor)}
    if all(name.startswith("module.") for name in found):
        found = {name.removeprefix("module."): value for name, value in found.items()}
    found = {name: value.float() if value.is_floating_point() else value for name, value in found.items()}
    for name, value in found.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise WeightsError(
                f"{path}: {name} contains NaN or infinity; the file is damaged, or its training failed"
            )
    return found


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], about: dict[str, str] | None = None
) -> None:
    """Write a .safetensors file; `about`: texts for its header."""
    with replacing(path) as temporary:
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(state, temporary, about)


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Load tensors into a module whose state has exactly these names and shapes.

    Batch counters (`num_batches_tracked`) may be missing and become 0.

    Raises:
        WeightsError: tensors are missing, unknown or of another shape; the message names them and `source`.
    """
    state = module.state_dict()
    needed = {name for name in state if not name.endswith("num_batches_tracked")}
    problems = []
    if missing := needed - set(tensors):
        problems.append(f"without {_some(missing)}")
    if unknown := set(tensors) - set(state):
        problems.append(f"with unknown {_some(unknown)}")
    wrong = [
        f"{name} {tuple(value.shape)} instead of {tuple(state[name].shape)}"
        for name, value in tensors.items()
        if name in state and value.shape != state[name].shape
    ]
    if wrong:
        problems.append(f"with {_some(wrong)}")
    if problems:
        raise WeightsError(f"{source}: not the weights of this network: {'; '.join(problems)}")
    counters = {name: torch.zeros_like(state[name], device="cpu") for name in set(state) - set(tensors)}
    empty = any(value.is_meta for value in state.values())
    module.load_state_dict({**counters, **tensors}, assign=empty)


def without_values() -> torch.device:
    """Context in which a network is built without initial values, which take seconds, because they are loaded next."""
    return torch.device("meta")


def _some(names: Iterable[str], most: int = 3) -> str:
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def published_names(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """A backbone's tensors with torchvision's names, those of BAM's initial weights, or ours -> with ours.

    `name`: as in params.

    The published base networks also have copies of layers 0 to 4 named `encoder.0` to `encoder.4`.
    """
    renamed = {}
    for key, value in tensors.items():
        key = re.sub(r"^encoder\.(\d)\.", r"layer\1.", key)
        if name in CUTS and (match := re.match(r"features\.(\d+)\.(.+)", key)):
            index = int(match[1])
            layer = max(layer for layer, start in enumerate(CUTS[name]) if start <= index)
            renamed[f"layer{layer}.{index - CUTS[name][layer]}.{match[2]}"] = value
        elif name == "squeezenet1_1" and key.startswith("classifier.1."):  # a 1x1 convolution
            renamed[key.replace("classifier.1.", "fc.")] = value.flatten(1) if value.ndim == 4 else value
        elif name == "vgg16-bam" and key.startswith(
            "classifier."
        ):  # applies to 7x7 cells, not to their average
            continue
        else:
            # the stem: one convolution, or BAM's three, each with its norm and ReLU
            stem = re.match(r"(conv|bn)(\d)\.(.+)", key)
            if stem:
                key = f"layer0.{3 * (int(stem[2]) - 1) + (stem[1] == 'bn')}.{stem[3]}"
            renamed[key] = value
    return renamed


def load_backbone_tensors(
    backbone: Backbone, tensors: Mapping[str, Tensor], name: str, source: str | Path
) -> None:
    """Load tensors into a backbone; its classifier gets as many classes as the tensors have, or is removed.

    Raises:
        WeightsError: as `load_tensors`.
    """
    tensors = published_names(tensors, name)
    weight = tensors.get("fc.weight")
    if weight is None:
        backbone.fc = None
    elif weight.ndim == 2:
        backbone.fc = nn.Linear(weight.shape[1], weight.shape[0], device=next(backbone.parameters()).device)
        if weight.shape[1] != backbone.channels[2]:
            raise WeightsError(
                f"{source}: fc.weight is for {weight.shape[1]} channels, but layer4 of {name} has "
                f"{backbone.channels[2]}"
            )
    load_tensors(backbone, tensors, source)


def load_backbone_weights(backbone: Backbone, options: schema.Backbone) -> None:
    """Load ImageNet weights from the file `options.weights`; the base learner (ppm.*, cls.*) in it is ignored.

    Raises:
        WeightsError: the file cannot be used; the message names it and says why.
    """
    tensors = read_tensors(options.weights)
    own = {key: value for key, value in tensors.items() if not key.startswith(("ppm.", "cls."))}
    load_backbone_tensors(backbone, own, options.name, options.weights)


def open_backbone(options: schema.Backbone, path: str | Path) -> Backbone:
    """The backbone `options.name` with the weights of a file."""
    with without_values():
        backbone = build_backbone(options)
    load_backbone_tensors(backbone, read_tensors(path), options.name, path)
    return backbone


def open_encoder(
    options: schema.Backbone,
    backbone: str | Path,
    base_learner: str | Path | None = None,
    cam_head: str | Path | None = None,
) -> Encoder:
    """The encoder from its files.

    Args:
        options: of the backbone.
        backbone: file of its weights.
        base_learner: file with ppm.*, cls.* and, if the backbone was trained as well, its tensors, which then replace
            those of `backbone` (without fc the classifier of `backbone` is kept).
        cam_head: file with fc.weight and fc.bias, which replace the classifier.

    Raises:
        WeightsError: as `read_tensors` and `load_tensors`.
    """
    tensors = published_names(read_tensors(backbone), options.name)
    learner = None
    if base_learner is not None:
        learned = read_tensors(base_learner)
        own = {key: value for key, value in learned.items() if key.startswith(("ppm.", "cls."))}
        learner = open_base_learner(own, base_learner)
        if rest := {key: value for key, value in learned.items() if key not in own}:
            fc = {key: value for key, value in tensors.items() if key.startswith("fc.")}
            tensors, backbone = {**fc, **published_names(rest, options.name)}, base_learner
    if cam_head is not None:
        tensors = {**tensors, **read_tensors(cam_head)}
    with without_values():
        net = build_backbone(options)
    load_backbone_tensors(net, tensors, options.name, backbone)
    return Encoder(net, learner, options.precision)


def open_base_learner(tensors: Mapping[str, Tensor], source: str | Path) -> PSPNet:
    """The base learner from tensors ppm.* and cls.*, which determine its channels, width and classes."""
    first, last = tensors.get("cls.0.weight"), tensors.get("cls.4.weight")
    if first is None or last is None:
        raise WeightsError(f"{source}: no base learner: cls.0.weight or cls.4.weight is missing")
    with without_values():
        net = PSPNet(first.shape[1] // 2, last.shape[0] - 1, first.shape[0])
    load_tensors(net, tensors, source)
    return net
