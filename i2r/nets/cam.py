"""Class activation maps by the cheap gradient (method.md 3.1, 3.2 and 4).

All that a map needs is the gradient of the class score with respect to one layer: layers 0 to 3 run without a
graph, x3 is a leaf, layer4 and the classifier run once for all images, and one `autograd.grad` gives every
gradient, for images do not mix (frozen norms). At layer4 no backward runs at all where the logits are linear
in x4: the gradient of logit o is fc.weight[o] / (h w) in every cell, and that of its probability p_o is
p_o (fc.weight[o] - sum_k p_k fc.weight[k]) / (h w). Every method is exact with that gradient; GradCAM, HiResCAM
and the classic CAM then coincide, and XGradCAM with them up to its epsilon.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from i2r.nets.backbones import Backbone

METHODS = ("xgradcam", "hirescam", "gradcam", "gradcam++", "bagcam", "bagcam-original", "layercam", "cam")


def cam_maps(method: str, layer: str, backbone: Backbone, x3: Tensor, class_ids: Tensor) -> Tensor:
    """Rectified maps (N, h, w), not normalised, at the grid of `layer`, of classes (N,) on x3 (N, c3, h3, w3)."""
    return cam_maps_and_layer4(method, layer, backbone, x3, class_ids)[0]


def cam_maps_and_layer4(
    method: str, layer: str, backbone: Backbone, x3: Tensor, class_ids: Tensor
) -> tuple[Tensor, Tensor]:
    """As `cam_maps`, and x4 (N, c4, h4, w4), which the gradient needs anyway.

    Raises:
        ValueError: an unknown method or layer, or the classic CAM asked for at layer3.
    """
    if method not in METHODS:
        raise ValueError(f"cam must be one of {', '.join(METHODS)}, got {method!r}")
    if layer not in ("layer3", "layer4"):
        raise ValueError(f"cam_layer must be layer3 or layer4, got {layer!r}")
    if method == "cam":
        if layer != "layer4":
            raise ValueError("the classic CAM (cam: cam) exists at layer4 only: set cam_layer to layer4")
        with torch.no_grad():
            x4 = backbone.layer4(x3)
            weights = backbone.fc.weight[class_ids] / x4[0, 0].numel()
            return F.relu(torch.einsum("nc,nchw->nhw", weights, x4)), x4
    activation, gradient, x4 = class_gradient(backbone, layer, x3, class_ids, method.startswith("bagcam"))
    return combine(method, activation, gradient), x4


def class_gradient(
    backbone: Backbone, layer: str, x3: Tensor, class_ids: Tensor, probability: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Activation A and gradient G (N, C, h, w) of `layer`, and x4.

    Args:
        probability: gradient of the softmax probability of the class instead of its logit.
    """
    if layer == "layer4":
        with torch.no_grad():
            leaf = x4 = backbone.layer4(x3)
            if backbone.linear_head:
                weight = backbone.fc.weight
                gradient = weight[class_ids]  # (N, C)
                if probability:
                    p = backbone.logits(x4).softmax(1)
                    gradient = p.gather(1, class_ids[:, None]) * (gradient - p @ weight)
                return x4, (gradient / x4[0, 0].numel())[:, :, None, None].expand_as(x4), x4
    else:
        leaf = x3
    with torch.enable_grad():
        leaf = leaf.detach().requires_grad_()
        x4 = backbone.layer4(leaf) if layer == "layer3" else leaf
        scores = backbone.logits(x4)  # (N, classes)
        if probability:
            scores = scores.softmax(1)
        (gradient,) = torch.autograd.grad(scores.gather(1, class_ids[:, None]).sum(), leaf)
    return leaf.detach(), gradient, x4.detach()


@torch.no_grad()
def combine(method: str, a: Tensor, g: Tensor) -> Tensor:
    """Activations and gradients (N, C, h, w) -> rectified map (N, h, w)."""
    cells = (2, 3)
    if method == "hirescam":
        return F.relu((g * a).sum(1))
    if method == "layercam":
        return F.relu((F.relu(g) * a).sum(1))
    if method == "bagcam":
        t = g * a
        return F.relu((t + 1).mean(cells, keepdim=True) * t).sum(1)
    if method == "gradcam":
        weights = g.mean(cells)  # (N, C)
    elif method == "xgradcam":
        weights = (g * a).sum(cells) / (a.sum(cells) + 1e-7)
    elif method == "gradcam++":
        g2 = g.square()
        alpha = g2 / (2 * g2 + a.sum(cells, keepdim=True) * g2 * g + 1e-6)
        weights = (F.relu(g) * alpha.where(g != 0, 0)).sum(cells)
    else:
        raise ValueError(f"no formula for cam {method!r}")
    return F.relu(torch.einsum("nc,nchw->nhw", weights, a))
