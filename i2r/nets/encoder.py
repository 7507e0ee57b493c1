"""The frozen part of a network, which computes everything that a meta learner needs of an episode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from i2r.config.networks import CamOptions, NetworkOptions
from i2r.nets.backbone.base import Backbone, Layout
from i2r.nets.device import recording
from i2r.nets.fuse import fuse, lower_precision, stamp
from i2r.nets.pmgm.cam import cam_maps, cam_maps_and_layer4
from i2r.nets.pspnet import PSPNet


class Features(NamedTuple):
    """Features of N images. Height and width may differ."""

    x2: Tensor  # (N, c2, h2, w2)
    x3: Tensor  # (N, c3, h, w)
    x4: Tensor  # (N, c4, h4, w4)
    base: Tensor | None  # (N, base classes + 1, h4, w4) logits; None without a base learner
    pyramid: tuple[Tensor, ...] | None = None  # (N, c, h, w) of every block of layers 2 to 4, if requested


class Fused(NamedTuple):
    """The networks with fused norms that an Encoder computes with."""

    backbone: Backbone
    base_learner: PSPNet | None
    stamp: tuple[tuple[int, int], ...]  # of the weights from which they were made


@dataclass
class EpisodeInputs:
    """The inputs of a meta learner: B episodes with K shots, at image size H x W.

    Each shot has its own class, and so its own CAM; the query has one CAM for each shot, of the shot's class.
    CAMs are rectified, not normalised, on the grid of the CAM's layer. CAMs and class ids are None without
    `options.uses_cam`, the pyramids without `options.uses_pyramid`.
    """

    x2_q: Tensor  # (B, c2, h2, w2)
    x3_q: Tensor  # (B, c3, h, w)
    x4_q: Tensor  # (B, c4, h4, w4)
    base: Tensor | None  # (B, base classes + 1, h4, w4) logits of the query
    x2_s: Tensor  # (B, K, c2, h2, w2)
    x3_s: Tensor  # (B, K, c3, h, w)
    x4_s: Tensor  # (B, K, c4, h4, w4), layer4 of the MASKED support (docs/method.md 2.3)
    cam_q: Tensor | None  # (B, K, hc, wc)
    cam_s: Tensor | None  # (B, K, hc, wc)
    class_id: Tensor | None  # (B, K) int64, class that the CAM is made for
    masks_s: Tensor  # (B, K, H, W) 0, 1, 255
    mask_q: Tensor | None = None  # (B, H, W) 0, 1, 255
    # (B,) int64, base class, from 0, that the base map leaves out in training
    episode_class: Tensor | None = None
    # (B, H, W) of the query: 0 background, 1.. base classes, 255 unknown; for BAM's third loss
    base_labels: Tensor | None = None
    # outputs of every block of layers 2 to 4 on UNMASKED images
    pyramid_q: tuple[Tensor, ...] | None = None  # (B, c, h, w) each
    pyramid_s: tuple[Tensor, ...] | None = None  # (B, K, c, h, w) each

    losses = True  # whether losses and what only they need are computed, if the query's mask is known; not a tensor

    @property
    def supervised(self) -> bool:
        """Whether the network computes its losses."""
        return self.losses and self.mask_q is not None


class Encoder(nn.Module):
    """Backbone with classifier and, optionally, the base learner; frozen and always in eval mode.

    Both compute with fused norms (nets/fuse.py), in copies that are made at first use and again after weights were
    loaded, moved or written to; torch does not notice writes through `.data`. The classifier is shared, not copied.

    Attributes:
        precision: fp32 or bf16, of the convolutions.
        class_table: (C,) int64, the classifier's class for each of a data set's classes 1..C; None unless
            network.class_source is table.
    """

    class_table: Tensor | None

    def __init__(
        self, backbone: Backbone, base_learner: PSPNet | None = None, precision: str = "fp32"
    ) -> None:
        super().__init__()
        self.precision = precision
        self.backbone = backbone
        self.base_learner = base_learner
        self.register_buffer("class_table", None, persistent=False)
        self._fused: Fused | None = None
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Encoder:
        """Stay in eval mode, even as part of a network in training mode."""
        return super().train(False)

    @property
    def layout(self) -> Layout:
        """Channels and numbers of blocks of the backbone's layers 2 to 4."""
        return self.backbone.layout

    def fused(self) -> Fused:
        """Backbone and base learner with fused norms, made from their current weights."""
        now = stamp(self)
        if self._fused is None or self._fused.stamp != now:
            backbone = fuse(self.backbone)
            backbone.fc = self.backbone.fc
            base_learner = fuse(self.base_learner) if self.base_learner else None
            if self.precision == "bf16":
                lower_precision(backbone)
                if base_learner is not None:
                    lower_precision(base_learner)
            self._fused = Fused(backbone, base_learner, now)
        return self._fused

    @torch.no_grad()
    def images(self, images: Tensor, pyramid: bool = False) -> Features:
        """Features of normalised images (N, 3, H, W), with the outputs of all blocks if `pyramid` is True."""
        x2, x3, x4, outputs = self.fused().backbone.maps(images, pyramid)
        return Features(x2, x3, x4, self.base(x4), outputs)

    @torch.no_grad()
    def base(self, x4: Tensor) -> Tensor | None:
        """Logits (N, base classes + 1, h4, w4) of unmasked x4; None without a base learner."""
        base_learner = self.fused().base_learner
        return None if base_learner is None else base_learner(x4)

    @torch.no_grad()
    def support(self, x3: Tensor, masks: Tensor, x4: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Layer4 features of masked supports, and their class logits (docs/method.md 2.3).

        Args:
            x3: (N, c3, h, w) of unmasked support images.
            masks: (N, H, W) with 1 on the object; every other value, including 255, counts as background.
            x4: (N, c4, h4, w4) of unmasked support images; needed with `backbone.masks_output` (ViT).

        Returns:
            Masked x4 (N, c4, h4, w4), and logits (N, classes), or zeros (N, 1) for a backbone without classifier.
        """
        backbone = self.fused().backbone
        masked = backbone.masked(x3, x4, (masks == 1)[:, None])
        return masked, masked.new_zeros(len(masked), 1) if backbone.fc is None else backbone.logits(masked)

    def cams(self, x3: Tensor, class_ids: Tensor, method: str, layer: str, backend: str = "native") -> Tensor:
        """Rectified maps (N, hc, wc) of classes (N,) on unmasked images, see `cam.cam_maps`."""
        return cam_maps(method, layer, self.fused().backbone, x3, class_ids, backend)

    def listed(self, classes: Tensor) -> Tensor | None:
        """The classifier's classes (B,) for data set classes (B,), counted from 1; None without a table."""
        return None if self.class_table is None else self.class_table[classes - 1]


def episode_class_ids(logits: Tensor, source: str, listed: Tensor | None = None) -> Tensor:
    """Class of each shot (B, K) from the logits (B, K, classes) of the masked supports (docs/method.md 2.3).

    Args:
        source: "episode": each shot has its own class; "majority": all have that of most shots, with ties broken by
            the larger mean logit; "table": all have that of `listed`.
        listed: (B,) classes from Encoder.class_table.

    Raises:
        ValueError: "table" without `listed`.
    """
    if source == "table":
        if listed is None:
            raise ValueError("class_source: table needs the episodes' classes and the encoder's class_table")
        return listed[:, None].expand(logits.shape[:2])
    ids = logits.argmax(-1)  # (B, K)
    if source == "episode":
        return ids
    votes = (ids[:, :, None] == ids[:, None, :]).sum(-1)  # (B, K)
    mean = logits.mean(1).gather(1, ids)
    winner = mean.where(votes == votes.amax(1, keepdim=True), -torch.inf).argmax(1, keepdim=True)
    return ids.gather(1, winner).expand_as(ids)


@torch.no_grad()
def encode_episode(
    encoder: Encoder,
    query: Tensor,
    supports: Tensor,
    masks: Tensor,
    options: NetworkOptions,
    mask_q: Tensor | None = None,
    base_class: Tensor | None = None,
    base_labels: Tensor | None = None,
    classes: Tensor | None = None,
) -> EpisodeInputs:
    """Run the encoder on B episodes, in float32 (convolutions in `encoder.precision`).

    Args:
        query: normalised images (B, 3, H, W).
        supports: (B, K, 3, H, W).
        masks: of the supports, (B, K, H, W) with 0, 1, 255.
        options: of the network; they say whether CAMs and the pyramid are needed, and how CAMs are made.
        mask_q: (B, H, W) with 0, 1, 255, for losses and mask ratios.
        base_class: (B,) base class of each episode, from 0, in training.
        base_labels: (B, H, W) of the query with 0, 1.. base classes, 255; for BAM's third loss.
        classes: (B,) of the data set, from 1; needed with class_source: table.
    """
    batch, shots = supports.shape[:2]
    x4 = pyramid = class_id = cam_q = cam_s = None
    with torch.autocast(query.device.type, enabled=False):
        backbone = encoder.fused().backbone
        images = torch.cat([query, supports.flatten(0, 1)])
        if options.uses_pyramid or backbone.masks_output:
            x2, x3, x4, pyramid = backbone.maps(images, options.uses_pyramid)
        else:
            x2, x3 = backbone.to_layer3(images)
        x4_s, logits = encoder.support(x3[batch:], masks.flatten(0, 1), None if x4 is None else x4[batch:])
        if options.uses_cam:
            listed = None if classes is None else encoder.listed(classes)
            class_id = episode_class_ids(logits.unflatten(0, (batch, shots)), options.class_source, listed)
            x4_q, cam_q, cam_s = _episode_cams(encoder, x3[:batch], x3[batch:], class_id, options)
        else:
            x4_q = backbone.layer4(x3[:batch]) if x4 is None else x4[:batch]
        base = encoder.base(x4_q)

    def split(tensor: Tensor) -> Tensor:
        return tensor.unflatten(0, (batch, shots))

    return EpisodeInputs(
        x2_q=x2[:batch],
        x3_q=x3[:batch],
        x4_q=x4_q,
        base=base,
        x2_s=split(x2[batch:]),
        x3_s=split(x3[batch:]),
        x4_s=split(x4_s),
        cam_q=cam_q,
        cam_s=cam_s,
        class_id=class_id,
        masks_s=masks,
        mask_q=mask_q,
        episode_class=base_class,
        base_labels=base_labels,
        pyramid_q=None if pyramid is None else tuple(x[:batch] for x in pyramid),
        pyramid_s=None if pyramid is None else tuple(split(x[batch:]) for x in pyramid),
    )


def _episode_cams(
    encoder: Encoder, x3_q: Tensor, x3_s: Tensor, class_id: Tensor, options: CamOptions
) -> tuple[Tensor, Tensor, Tensor]:
    """x4 of the query (B, ...) and the CAMs of query and supports (B, K, hc, wc), from one gradient.

    A query whose shots have different classes is in the batch once for each class. To find these, the classes are
    read, for which a GPU has to finish its work; so in a CUDA graph, and with one shot, it is there once for each shot.
    """
    batch, shots = class_id.shape
    if shots == 1 or recording(class_id.device):
        maps, x4 = cam_maps_and_layer4(
            options.cam,
            options.cam_layer,
            encoder.fused().backbone,
            torch.cat([x3_q.repeat_interleave(shots, 0), x3_s]),
            class_id.flatten().repeat(2),
            options.cam_backend,
        )
        cam_q, cam_s = maps.view(2, batch, shots, *maps.shape[1:])
        return x4[: batch * shots : shots], cam_q, cam_s
    pairs = [(row, cls) for row, classes in enumerate(class_id.tolist()) for cls in classes]
    unique = list(dict.fromkeys(pairs))
    rows, classes = torch.tensor(unique, device=x3_q.device).T
    maps, x4 = cam_maps_and_layer4(
        options.cam,
        options.cam_layer,
        encoder.fused().backbone,
        torch.cat([x3_q[rows], x3_s]),
        torch.cat([classes, class_id.flatten()]),
        options.cam_backend,
    )
    position = {pair: index for index, pair in enumerate(unique)}
    cam_q = maps[[position[pair] for pair in pairs]].unflatten(0, (batch, shots))
    first = [position[pairs[row * shots]] for row in range(batch)]
    return x4[first], cam_q, maps[len(unique) :].unflatten(0, (batch, shots))
