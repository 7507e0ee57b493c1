"""I2R: merge of features, prototypes and priors (docs/method.md 3.5, 3.6), its decoder, ensemble and losses."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from i2r.config.networks import I2ROptions
from i2r.nets.backbone.base import Layout
from i2r.nets.decoder.attention import Labels
from i2r.nets.decoder.blocks import Decoded, Decoder
from i2r.nets.encoder import EpisodeInputs
from i2r.nets.ensemble import Ensemble, shot_layers
from i2r.nets.output import Output, query_target, two_class_loss
from i2r.nets.pmgm.priors import EMBEDDING_ROWS, EMBEDDING_SPREAD, object_regions, region_means
from i2r.nets.pmgm.regions import Regions, cam_regions
from i2r.nets.precision import full
from i2r.nets.reduce import reduced, reduction, stacked_priors, weigh_shots
from i2r.nets.resize import bilinear, nearest


class Merged(NamedTuple):
    """Inputs of the decoder, and the priors."""

    query: torch.Tensor  # (B, d, h, w)
    support: torch.Tensor | None  # (B, K, d, h, w)
    prior_query: torch.Tensor  # (B, P, h, w)
    prior_support: torch.Tensor | None  # (B, K, P, h, w)


class I2R(nn.Module):
    """The meta learner of I2R; parameters have the published names, some with the prefix `decoder.` or `ensemble.`.

    If no prior needs a CAM, the network has no PMGM: its merge takes the features, the prototype of the complete
    object and the prior, as in BAM.

    Attributes:
        test_mask: attention mask in eval mode, set by the evaluation.
    """

    def __init__(self, options: I2ROptions, layout: Layout, shots: int):
        super().__init__()
        self.options = options
        self.test_mask = "none"
        self.pmgm = options.uses_cam
        width = options.width
        inputs = (3 if self.pmgm else 2) * width + len(options.prior.split("+"))
        self.down_query = reduction(layout.channels, width, options.reduce_dropout)
        self.down_supp = reduction(layout.channels, width, options.reduce_dropout)
        self.init_merge = nn.Sequential(nn.Conv2d(inputs, width, 1, bias=False), nn.ReLU())
        self.decoder = Decoder(width, options.blocks, options.cross, options.dropout, options.support_branch)
        self.ensemble = Ensemble() if options.ensemble else None
        self.kshot_rw = shot_layers(shots) if shots > 1 and options.shot_weights == "gram" else None
        self.cam_mask_init = None
        if options.embedding and self.pmgm:
            self.cam_mask_init = nn.Embedding(EMBEDDING_ROWS, layout.channels[2])
            nn.init.normal_(self.cam_mask_init.weight, std=EMBEDDING_SPREAD).requires_grad_(False)

    def forward(self, inputs: EpisodeInputs) -> Output:
        """Segment B queries, given K shots each.

        Losses, mask ratios and the support's logits need a query mask. In training mode the attention is masked by
        `options.mask`. In eval mode it is masked by `test_mask`, and the ratio of `options.mask` is measured without
        applying it.

        Raises:
            ValueError: the shot weights are for another number of shots, or the inputs lack the CAM or the base
                learner's logits that the options need.
        """
        options = self.options
        supervise = inputs.supervised
        regions = cam_regions(inputs, options) if self.pmgm else None
        weights, psi = weigh_shots(inputs, self.kshot_rw, needs_distance=self.ensemble is not None)
        needs_support = options.cross > 0 or (supervise and options.support_branch)
        merged = self.merge(inputs, regions, weights, needs_support)
        mask = options.mask if self.training else self.test_mask
        labels = None
        if inputs.mask_q is not None or mask != "none":
            labels = attention_labels(inputs, merged.query.shape[-2:], options.ignore)
        decoded = self.decoder(
            merged.query, merged.support, labels, mask, options.mask, side_outputs=supervise
        )

        final = decoded.query
        if self.ensemble is not None:
            if inputs.base is None:
                raise ValueError("ensemble: the inputs have no logits of a base learner")
            final = self.ensemble(decoded.query, inputs.base, psi, inputs.episode_class)
        output = Output(
            final_logits=bilinear(full(final), inputs.masks_s.shape[-2:]),
            meta_logits=decoded.query,
            base_logits=inputs.base,
            support_logits=decoded.support,
            prior_query=merged.prior_query.mean(1),
            prior_support=merged.prior_support.mean(2) if needs_support else None,
            cam_query=regions.cam_query if regions else None,
            cam_support=regions.cam_support if regions else None,
            class_id=inputs.class_id if self.pmgm else None,
            psi=psi,
            merged_query=merged.query,
            merged_support=merged.support,
            mask_ratio=decoded.mask_ratio if labels is not None else None,
        )
        if supervise:
            output.losses = self.losses(final, decoded, inputs)
        return output

    def merge(
        self, inputs: EpisodeInputs, regions: Regions | None, weights: torch.Tensor, needs_support: bool
    ) -> Merged:
        """[F, p, p1 c + p2 (1 - c), P] through one convolution, which query and supports share.

        The query's prototypes and prior are combined over the shots with `weights` (B, K); each support has its own.
        The query's c is CAM+ combined in the same way, or that of the last shot (`shot_cam`).
        """
        embedding = self.cam_mask_init.weight if self.cam_mask_init is not None else None
        prior_q, prior_s = stacked_priors(inputs, self.options, weights, regions, embedding, needs_support)
        batch, shots = weights.shape
        size = inputs.x3_q.shape[-2:]
        f_q = reduced(self.down_query, inputs.x2_q, inputs.x3_q)  # (B, d, h, w)
        f_s = reduced(
            self.down_supp, inputs.x2_s.flatten(0, 1), inputs.x3_s.flatten(0, 1)
        )  # (B * K, d, h, w)

        areas = bilinear(inputs.masks_s == 1, size).unsqueeze(2)  # (B, K, 1, h, w)
        c_q = c_s = None
        if regions is not None:
            areas = torch.cat([areas, object_regions(inputs, regions.plus_support, size)], 2)  # R, R1, R2
            c_s = bilinear(regions.plus_support, size)  # (B, K, h, w)
            c_q = bilinear(regions.plus_query, size)
            last = self.options.shot_cam == "last"
            c_q = c_q[:, -1] if last else (c_q * weights[:, :, None, None]).sum(1)  # (B, h, w)
        prototypes = region_means(f_s.unflatten(0, (batch, shots)), areas)  # (B, K, 1 or 3, d)
        combined = (prototypes * weights[:, :, None, None]).sum(1)  # (B, 1 or 3, d)

        query = self._merge(f_q, combined, c_q, prior_q)
        support = None
        if needs_support:
            c_s = c_s.flatten(0, 1) if c_s is not None else None
            support = self._merge(f_s, prototypes.flatten(0, 1), c_s, prior_s.flatten(0, 1))
            support = support.unflatten(0, (batch, shots))
        return Merged(query, support, prior_q, prior_s)

    def _merge(
        self, features: torch.Tensor, prototypes: torch.Tensor, plus: torch.Tensor | None, prior: torch.Tensor
    ) -> torch.Tensor:
        """(N, d, h, w), (N, 1 or 3, d), (N, h, w) or None, (N, P, h, w) -> (N, d, h, w)."""
        p = prototypes[..., None, None]  # (N, 1 or 3, d, 1, 1)
        parts = [features, p[:, 0].expand_as(features)]
        if plus is not None:
            c = plus.unsqueeze(1)  # (N, 1, h, w)
            parts.append(p[:, 1] * c + p[:, 2] * (1 - c))
        stacked = torch.cat([*parts, prior], 1)
        return self.init_merge(stacked.detach() if self.options.detach_merge_input else stacked)

    def losses(self, final: torch.Tensor, decoded: Decoded, inputs: EpisodeInputs) -> dict[str, torch.Tensor]:
        """The losses main, aux1 and aux2 of docs/method.md 6.

        Without the support branch its terms are left out; those of the query still have the weight one half.
        """
        target = query_target(inputs.mask_q, self.options.ignore)  # (B, S, S)
        own = (inputs.masks_s == 1).long()  # (B, K, S, S)
        main = two_class_loss(final, target)
        aux1 = main if self.ensemble is None else two_class_loss(decoded.query, target)
        aux2 = main.new_zeros(())
        if decoded.support is not None:
            aux1 = aux1 + two_class_loss(decoded.support, own)
        if decoded.side_query is not None:
            aux2 = two_class_loss(decoded.side_query, target)
        if decoded.side_support is not None:
            aux2 = aux2 + two_class_loss(decoded.side_support, own)
        return {"main": main, "aux1": aux1 / 2, "aux2": aux2 / 2}


def attention_labels(inputs: EpisodeInputs, size: tuple[int, int], ignore: str) -> Labels:
    """Masks of the supports and, if known, of the query on the attention's grid."""
    support = nearest(inputs.masks_s, size).flatten(-2) == 1  # (B, K, n)
    if inputs.mask_q is None:
        return Labels(support, None, None)
    query = nearest(inputs.mask_q, size).flatten(-2).unsqueeze(1)  # (B, 1, n)
    return Labels(support, query == 1, query == 255 if ignore == "255" else None)
