"""A complete network as one module, from images and masks to `Output`, and as one file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from i2r.config import schema
from i2r.config.base import describe as describe_problems
from i2r.config.networks import NetworkOptions, network_options
from i2r.nets.backbone.base import build_backbone
from i2r.nets.encoder import Encoder, encode_episode
from i2r.nets.io.weights import (
    WeightsError,
    load_backbone_tensors,
    load_tensors,
    open_base_learner,
    read_tensors,
    without_values,
    write_tensors,
)
from i2r.nets.networks import build_meta_learner
from i2r.nets.output import Output

ABOUT = "i2r"  # key in a network file's metadata


class Network(nn.Module):
    """The frozen encoder and the meta learner.

    State names: `encoder.backbone.*`, `encoder.base_learner.*` and `meta_learner.*`. `train()` affects only the meta
    learner; the encoder stays in eval mode.
    """

    def __init__(self, encoder: Encoder, meta_learner: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.meta_learner = meta_learner

    @property
    def options(self) -> NetworkOptions:
        """Options of the meta learner."""
        return self.meta_learner.options

    def forward(
        self,
        query: Tensor,
        supports: Tensor,
        masks: Tensor,
        mask_q: Tensor | None = None,
        base_class: Tensor | None = None,
        base_labels: Tensor | None = None,
    ) -> Output:
        """Segment B queries, given K shots each. Height and width may differ.

        Args:
            query: (B, 3, H, W), normalised by ImageNet's mean and standard deviation (data.transforms.normalise).
            supports: (B, K, 3, H, W), likewise.
            masks: of the supports (B, K, H, W), 1 the object, 0 background, 255 unknown.
            mask_q: of the query (B, H, W), for losses and mask ratios.
            base_class: (B,) base class of each episode, from 0, which the base map leaves out; used only in training
                mode.
            base_labels: (B, H, W) of the query, 0 background, 1.. base classes, 255 unknown; for BAM's third loss.

        Returns:
            Output; attributes that the network does not have are None.

        Raises:
            ValueError: shapes do not match, the shot weights are for another K, or the encoder lacks the classifier
                or base learner that the options need.
        """
        _check(query, supports, masks, mask_q)
        left_out = base_class if self.training else None
        inputs = encode_episode(
            self.encoder, query, supports, masks, self.options, mask_q, left_out, base_labels
        )
        return self.meta_learner(inputs)


def _check(query: Tensor, supports: Tensor, masks: Tensor, mask_q: Tensor | None) -> None:
    given = {"query": query, "supports": supports, "masks": masks, "mask_q": mask_q}
    shapes = {name: tuple(tensor.shape) for name, tensor in given.items() if tensor is not None}
    (batch, *_), (height, width) = query.shape, query.shape[-2:]
    shots = supports.shape[1]
    expected = {
        "query": (batch, 3, height, width),
        "supports": (batch, shots, 3, height, width),
        "masks": (batch, shots, height, width),
        "mask_q": (batch, height, width),
    }
    if shots < 1 or any(shape != expected[name] for name, shape in shapes.items()):
        raise ValueError(
            "expected query (B, 3, H, W), supports (B, K, 3, H, W), masks (B, K, H, W) and mask_q (B, H, W), K at "
            "least 1, got " + ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        )


# --- network files: safetensors with all tensors, and JSON metadata that describes how to build the network -------


def describe(
    backbone: str, options: NetworkOptions, shots: int, size: int, stride_at: str = "3x3"
) -> dict[str, Any]:
    """The metadata of a network file.

    Args:
        backbone, stride_at: as in params.
        options: of the network.
        shots: K of the shot weights.
        size: S, side of the square to which images are resized.
    """
    return {
        "backbone": backbone,
        "stride_at": stride_at,
        "network": options.model_dump(mode="json"),
        "shots": shots,
        "size": size,
    }


def save_network(tensors: Mapping[str, Tensor], about: dict[str, Any], path: str | Path) -> None:
    """Write a network file.

    Args:
        tensors: a Network's state.
        about: see `describe`.
    """
    write_tensors(path, tensors, {ABOUT: json.dumps(about)})


def read_about(path: str | Path) -> dict[str, Any] | None:
    """The metadata of a network file; None for another weights file (a meta learner, a backbone).

    Raises:
        WeightsError: the file is missing or unreadable.
    """
    if not Path(path).is_file():
        raise WeightsError(f"{path}: no such weights file")
    if Path(path).suffix != ".safetensors":
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a readable weights file ({error})") from None
    return json.loads(metadata[ABOUT]) if ABOUT in metadata else None


def open_network(path: str | Path, options: NetworkOptions | None = None) -> Network:
    """The network of a network file, in eval mode.

    Args:
        options: used instead of the file's own; they must fit its weights.

    Raises:
        WeightsError: the file is missing or not a network file, or its tensors do not fit the options.
    """
    about = read_about(path)
    if about is None:
        raise WeightsError(f"{path}: not a network file (`i2r import-checkpoint` makes network files)")
    return build_network(read_tensors(path), about, path, options)


def build_network(
    tensors: Mapping[str, Tensor],
    about: Mapping[str, Any],
    source: str | Path,
    options: NetworkOptions | None = None,
) -> Network:
    """A network from its tensors and its metadata (`describe`).

    Tensors of the ensemble are ignored if the options have no ensemble.

    Raises:
        WeightsError: tensors are missing, unknown or of another shape; the message names them and `source`.
    """

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

    try:
        options = options or network_options(about["network"])
        which = schema.Backbone(name=about["backbone"], stride_at=about["stride_at"])
    except ValidationError as error:
        raise WeightsError(f"{source}: {describe_problems(error)}") from None
    except KeyError as error:
        raise WeightsError(
            f"{source}: its metadata has no {error.args[0]}; the file was written by an older version"
        ) from None
    with without_values():
        backbone = build_backbone(which)
    load_backbone_tensors(backbone, part("encoder.backbone."), which.name, source)
    base = part("encoder.base_learner.")
    encoder = Encoder(backbone, open_base_learner(base, source) if base else None)
    with without_values():
        meta_learner = build_meta_learner(options, encoder.layout, about["shots"])
    load_tensors(meta_learner, _fitting(part("meta_learner."), options), source)
    return Network(encoder, meta_learner).eval()


def load_meta_learner(meta_learner: nn.Module, path: str | Path, shots_may_differ: bool = False) -> None:
    """Load the weights of a training's weights.safetensors, or of a network file, into a meta learner.

    Args:
        shots_may_differ: the layers that weight shots may be missing, as in weights for one shot, and stay unchanged.

    Raises:
        WeightsError: the file is missing or unreadable, or its tensors do not fit.
    """
    tensors = read_tensors(path)
    if read_about(path) is not None:
        own = "meta_learner."
        tensors = {n.removeprefix(own): t for n, t in tensors.items() if n.startswith(own)}
    tensors = _fitting(tensors, meta_learner.options)
    if shots_may_differ:
        fresh = {name: t for name, t in meta_learner.state_dict().items() if name.startswith("kshot_rw.")}
        tensors = {**fresh, **tensors}
    load_tensors(meta_learner, tensors, path)


def _fitting(tensors: Mapping[str, Tensor], options: NetworkOptions) -> dict[str, Tensor]:
    """A meta learner's tensors, without those of the ensemble if the options have none."""
    kept = getattr(options, "ensemble", False)
    return {n: t for n, t in tensors.items() if kept or not n.startswith("ensemble.")}
