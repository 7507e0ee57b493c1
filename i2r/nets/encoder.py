"""The frozen part of a network: all that a decoder needs of an episode, without training anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2r.config import schema as params
from i2r.nets.backbone.models import Backbone
from i2r.nets.fuse import fold, stamp
from i2r.nets.pmgm.cam import cam_maps, cam_maps_and_layer4
from i2r.nets.pspnet import PSPHead


class Features(NamedTuple):
    """Of N images. Heights and widths need not be equal; `base` is None without a base learner."""

    x2: Tensor  # (N, c2, h2, w2)
    x3: Tensor  # (N, c3, h, w)
    x4: Tensor  # (N, c4, h4, w4)
    base: Tensor | None  # (N, base classes + 1, h4, w4) logits


class Folded(NamedTuple):
    """What an Encoder computes with."""

    backbone: Backbone
    head: PSPHead | None
    stamp: tuple[tuple[int, int], ...]  # of the weights that it was made of


@dataclass
class EpisodeInputs:
    """All that a decoder needs of B episodes with K shots, at image size H x W.

    The class (and so the CAM) of each shot is its own; the query has one CAM a shot, of that shot's class.
    CAM maps are rectified, not normalised, at the grid of the CAM's layer; None for methods without CAM.
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
    class_id: Tensor  # (B, K) int64, class that the classifier reads from the masked support
    masks_s: Tensor  # (B, K, H, W) 0, 1, 255
    mask_q: Tensor | None = None  # (B, H, W) 0, 1, 255
    # (B,) int64, base class from 0 that the base map leaves out (training)
    episode_class: Tensor | None = None
    # (B, H, W) of the query: 0 background, 1.. base classes, 255 unknown; for BAM's loss of the base learner
    base_labels: Tensor | None = None


class Encoder(nn.Module):
    """Backbone with classifier and, optionally, the base learner's head; frozen and in eval mode for ever.

    Both compute in a folded form (nets/fold.py), made at first use and again after their weights were loaded, moved
    or written to; only of writes through `.data` torch keeps no count. The classifier is not folded but shared.

    Attributes:
        class_table: (C,) int64, the classifier's class that stands for each of a data set's classes 1..C; None
            unless method.class_source asks for it.
    """

    class_table: Tensor | None

    def __init__(self, backbone: Backbone, head: PSPHead | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.register_buffer("class_table", None, persistent=False)
        self._folded: Folded | None = None
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Encoder:
        """Stays in eval mode, also as a part of a network in training."""
        return super().train(False)

    @property
    def channels(self) -> tuple[int, int, int]:
        """Channels of x2, x3, x4."""
        return self.backbone.channels

    def folded(self) -> Folded:
        """What computes in place of the backbone and the head, with their present weights."""
        now = stamp(self)
        if self._folded is None or self._folded.stamp != now:
            backbone = fold(self.backbone)
            backbone.fc = self.backbone.fc
            self._folded = Folded(backbone, fold(self.head) if self.head else None, now)
        return self._folded

    @torch.no_grad()
    def images(self, images: Tensor) -> Features:
        """Features of normalised images (N, 3, H, W)."""
        backbone = self.folded().backbone
        x2, x3 = backbone.to_layer3(images)
        x4 = backbone.layer4(x3)
        return Features(x2, x3, x4, self.base(x4))

    @torch.no_grad()
    def base(self, x4: Tensor) -> Tensor | None:
        """Logits (N, base classes + 1, h4, w4) of unmasked x4; None without a base learner."""
        head = self.folded().head
        return None if head is None else head(x4)

    @torch.no_grad()
    def support(self, x3: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Masked layer4 features and the class logits read from them (docs/method.md 2.3).

        Args:
            x3: (N, c3, h, w) of whole support images.
            masks: (N, H, W) with 1 on the object; every other value, 255 too, is background here.

        Returns:
            x4 of x3 * mask (N, c4, h4, w4), and logits (N, classes); of a backbone without classifier, which
            serves BAM, zeros (N, 1).
        """
        backbone = self.folded().backbone
        mask = (masks == 1).to(x3.dtype)[:, None]
        x4 = backbone.layer4(x3 * F.interpolate(mask, x3.shape[-2:], mode="bilinear", align_corners=True))
        return x4, x4.new_zeros(len(x4), 1) if backbone.fc is None else backbone.logits(x4)

    def cams(self, x3: Tensor, class_ids: Tensor, method: str, layer: str, backend: str = "native") -> Tensor:
        """Rectified maps (N, hc, wc) of classes (N,) on whole images, see `cam.cam_maps`."""
        return cam_maps(method, layer, self.folded().backbone, x3, class_ids, backend)

    def listed(self, classes: Tensor) -> Tensor | None:
        """The classifier's class (B,) of data set classes (B,), counted from 1; None without a table."""
        return None if self.class_table is None else self.class_table[classes - 1]


def episode_class_ids(logits: Tensor, source: str, listed: Tensor | None = None) -> Tensor:
    """Class of each shot (B, K) from the logits (B, K, classes) of the masked supports (docs/method.md 2.3).

    Args:
        source: "episode": each shot has its own; "majority": all have the one that most shots have, of
            equally frequent ones that with the larger logit on average; "table": all have the listed one.
        listed: (B,) classes by a table.

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
    options: params.Method,
    mask_q: Tensor | None = None,
    base_class: Tensor | None = None,
    base_labels: Tensor | None = None,
    classes: Tensor | None = None,
) -> EpisodeInputs:
    """Run the frozen part on B episodes, in float32.

    Args:
        query: normalised images (B, 3, H, W).
        supports: (B, K, 3, H, W).
        masks: of the supports, (B, K, H, W) with 0, 1, 255.
        options: CAM method, layer and class source; no CAM is made where no prior looks at one (BAM).
        mask_q: (B, H, W) with 0, 1, 255, in training or to measure.
        base_class: (B,) base class from 0 of each episode, in training.
        base_labels: (B, H, W) of the query with 0, 1.. base classes, 255: for BAM's third loss.
        classes: (B,) of the data set, from 1; what class_source: table looks up.
    """
    batch, shots = supports.shape[:2]
    with torch.autocast(query.device.type, enabled=False):
        backbone = encoder.folded().backbone
        x2, x3 = backbone.to_layer3(torch.cat([query, supports.flatten(0, 1)]))
        x3_q, x3_s = x3[:batch], x3[batch:]
        x4_s, logits = encoder.support(x3_s, masks.flatten(0, 1))
        listed = None if classes is None else encoder.listed(classes)
        class_id = episode_class_ids(logits.unflatten(0, (batch, shots)), options.class_source, listed)
        if options.uses_cam:
            x4_q, cam_q, cam_s = _episode_cams(encoder, x3_q, x3_s, class_id, options)
        else:
            x4_q, cam_q, cam_s = backbone.layer4(x3_q), None, None
        base = encoder.base(x4_q)

    def split(tensor: Tensor) -> Tensor:
        return tensor.unflatten(0, (batch, shots))

    return EpisodeInputs(
        x2_q=x2[:batch],
        x3_q=x3_q,
        x4_q=x4_q,
        base=base,
        x2_s=split(x2[batch:]),
        x3_s=split(x3_s),
        x4_s=split(x4_s),
        cam_q=cam_q,
        cam_s=cam_s,
        class_id=class_id,
        masks_s=masks,
        mask_q=mask_q,
        episode_class=base_class,
        base_labels=base_labels,
    )


def _episode_cams(
    encoder: Encoder, x3_q: Tensor, x3_s: Tensor, class_id: Tensor, options: params.Method
) -> tuple[Tensor, Tensor, Tensor]:
    """x4 of the query (B, ...) and the maps of query and supports (B, K, hc, wc), by one gradient.

    A query whose shots have several classes stands in the batch once for each of them.
    """
    batch, shots = class_id.shape
    pairs = [(row, cls) for row, classes in enumerate(class_id.tolist()) for cls in classes]
    unique = list(dict.fromkeys(pairs))
    rows, classes = torch.tensor(unique, device=x3_q.device).T
    maps, x4 = cam_maps_and_layer4(
        options.cam,
        options.cam_layer,
        encoder.folded().backbone,
        torch.cat([x3_q[rows], x3_s]),
        torch.cat([classes, class_id.flatten()]),
        options.cam_backend,
    )
    position = {pair: index for index, pair in enumerate(unique)}
    cam_q = maps[[position[pair] for pair in pairs]].unflatten(0, (batch, shots))
    first = [position[pairs[row * shots]] for row in range(batch)]
    return x4[first], cam_q, maps[len(unique) :].unflatten(0, (batch, shots))
