"""BAM, the baseline: meta learner with ASPP, Gram adjustment and ensemble (docs/method.md 7).

Parameters have the published names (those of the ensemble with the prefix `ensemble.`).
"""

from __future__ import annotations

import torch
from torch import nn

from i2r.config.networks import BAMOptions
from i2r.nets.backbone.base import Layout
from i2r.nets.encoder import EpisodeInputs
from i2r.nets.ensemble import Ensemble, shot_layers
from i2r.nets.output import Output, query_target, two_class_loss
from i2r.nets.pmgm.priors import region_means
from i2r.nets.pmgm.regions import cam_regions
from i2r.nets.precision import full
from i2r.nets.reduce import reduced, reduction, stacked_priors, weigh_shots
from i2r.nets.resize import bilinear
from i2r.nets.whole_batch import cross_entropy

GAP_EPS = 5e-4  # of the masked average


class ASPP(nn.Module):
    """Image mean, 1x1, and 3x3 dilated by 6, 12, 18, each with bias and ReLU, concatenated."""

    def __init__(self, width: int):
        super().__init__()
        self.layer6_0 = _relu(nn.Conv2d(width, width, 1))
        self.layer6_1 = _relu(nn.Conv2d(width, width, 1))
        self.layer6_2 = _relu(nn.Conv2d(width, width, 3, padding=6, dilation=6))
        self.layer6_3 = _relu(nn.Conv2d(width, width, 3, padding=12, dilation=12))
        self.layer6_4 = _relu(nn.Conv2d(width, width, 3, padding=18, dilation=18))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, d, h, w) -> (B, 5 d, h, w)."""
        mean = self.layer6_0(x.mean((-2, -1), keepdim=True)).expand_as(x)
        return torch.cat([mean, self.layer6_1(x), self.layer6_2(x), self.layer6_3(x), self.layer6_4(x)], 1)


class BAM(nn.Module):
    """The meta learner of BAM."""

    def __init__(self, options: BAMOptions, layout: Layout, shots: int):
        super().__init__()
        self.options = options
        width = options.width
        self.down_query = reduction(layout.channels, width, options.reduce_dropout)
        self.down_supp = reduction(layout.channels, width, options.reduce_dropout)
        priors = len(options.prior.split("+"))
        self.init_merge = _relu(nn.Conv2d(2 * width + priors, width, 1, bias=False))
        self.ASPP_meta = ASPP(width)
        self.res1_meta = _relu(nn.Conv2d(5 * width, width, 1, bias=False))
        self.res2_meta = nn.Sequential(*_conv3x3(width), *_conv3x3(width))
        self.cls_meta = nn.Sequential(*_conv3x3(width), nn.Dropout2d(options.dropout), nn.Conv2d(width, 2, 1))
        self.ensemble = Ensemble() if options.ensemble else None
        self.kshot_rw = shot_layers(shots) if shots > 1 and options.shot_weights == "gram" else None

    def forward(self, inputs: EpisodeInputs) -> Output:
        """Segment B queries, given K shots each.

        The third loss (aux2), that of the base learner, has no gradient because the base learner is frozen; without
        base labels it is 0.

        Raises:
            ValueError: see I2R.forward.
        """
        options = self.options
        weights, psi = weigh_shots(inputs, self.kshot_rw, needs_distance=self.ensemble is not None)
        regions = cam_regions(inputs, options) if options.uses_cam else None
        prior, _ = stacked_priors(inputs, options, weights, regions, support=False)  # (B, P, h, w)
        f_q = reduced(self.down_query, inputs.x2_q, inputs.x3_q)  # (B, d, h, w)
        prototype = self.prototype(inputs, weights)[..., None, None].expand_as(f_q)
        merged = self.init_merge(torch.cat([f_q, prototype, prior], 1))
        x = self.res1_meta(self.ASPP_meta(merged))
        meta = self.cls_meta(self.res2_meta(x) + x)  # (B, 2, h, w)

        final = meta
        if self.ensemble is not None:
            if inputs.base is None:
                raise ValueError("ensemble: the inputs have no logits of a base learner")
            final = self.ensemble(meta, inputs.base, psi, inputs.episode_class)
        output = Output(
            final_logits=bilinear(full(final), inputs.masks_s.shape[-2:]),
            meta_logits=meta,
            base_logits=inputs.base,
            prior_query=prior.mean(1),
            cam_query=regions.cam_query if regions else None,
            cam_support=regions.cam_support if regions else None,
            class_id=inputs.class_id if regions else None,
            psi=psi,
            merged_query=merged,
        )
        if inputs.supervised:
            target = query_target(inputs.mask_q, options.ignore)
            main = two_class_loss(final, target)
            aux1 = two_class_loss(meta, target) if self.ensemble is not None else main
            aux2 = main.new_zeros(())
            if inputs.base is not None and inputs.base_labels is not None:
                logits = bilinear(inputs.base, inputs.base_labels.shape[-2:])
                aux2 = cross_entropy(logits, inputs.base_labels.long(), 255)
            output.losses = {"main": main, "aux1": aux1, "aux2": aux2}
        return output

    def prototype(self, inputs: EpisodeInputs, weights: torch.Tensor) -> torch.Tensor:
        """(B, d): the supports' reduced features averaged over the object, and over the shots with weights (B, K)."""
        f_s = reduced(self.down_supp, inputs.x2_s.flatten(0, 1), inputs.x3_s.flatten(0, 1))
        area = bilinear(inputs.masks_s == 1, inputs.x3_s.shape[-2:]).unsqueeze(2)  # (B, K, 1, h, w)
        each = region_means(f_s.unflatten(0, weights.shape), area, GAP_EPS).squeeze(2)  # (B, K, d)
        return (each * weights[..., None]).sum(1)


def _relu(layer: nn.Module) -> nn.Sequential:
    return nn.Sequential(layer, nn.ReLU())


def _conv3x3(width: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(width, width, 3, padding=1, bias=False), nn.ReLU()
