"""Class activation maps with a cheap gradient (docs/method.md 3.1, 3.2 and 4).

A map needs only the gradient of the class score with respect to one layer. Layers 0 to 3 run without a graph; x3 is
a leaf, layer4 and the classifier run once for all images, and one `autograd.grad` gives every gradient, because
images do not mix in frozen norms.

At layer4 no backward pass is needed if the logits are linear in x4 (`Backbone.linear_classifier`): the gradient of
logit o is fc.weight[o] / (h w) in every cell, and that of its log probability is (fc.weight[o] - m) / (h w), where m
is the mean of the rows of fc.weight weighted by their probabilities. GradCAM, HiResCAM and the classic CAM are then
equal, and XGradCAM differs from them only by its epsilon. SqueezeNet has a ReLU after its classifier: its gradient
at layer4 comes from a backward pass through the classifier alone.

Maps of degenerate images are finite: a map without a positive value is zero everywhere, a constant map is
normalised to zeros, and zeros give an empty CAM+.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2r.config.networks import CAMS
from i2r.config.registry import find
from i2r.nets.backbone.base import Backbone

CELLS = (2, 3)


def cam_maps(
    method: str, layer: str, backbone: Backbone, x3: Tensor, class_ids: Tensor, backend: str = "native"
) -> Tensor:
    """Rectified maps (N, h, w) at the grid of `layer`, of classes (N,) on x3 (N, c3, h3, w3).

    The backend "grad-cam" scales each map to 0..1, "native" does not; after `normalise` there is no difference.
    """
    return cam_maps_and_layer4(method, layer, backbone, x3, class_ids, backend)[0]


def cam_maps_and_layer4(
    method: str, layer: str, backbone: Backbone, x3: Tensor, class_ids: Tensor, backend: str = "native"
) -> tuple[Tensor, Tensor]:
    """As `cam_maps`, and x4 (N, c4, h4, w4), which is computed for the gradient anyway.

    Raises:
        ValueError: an unknown method, a layer that the method does not support (the classic CAM has only layer4), or
            a backbone without a classifier.
    """
    if method not in CAMS:
        raise ValueError(f"cam must be one of {', '.join(CAMS)}, got {method!r}")
    if layer not in CAMS[method].layers:
        raise ValueError(
            f"cam_layer must be {' or '.join(CAMS[method].layers)} for cam: {method}, got {layer!r}"
        )
    _ = backbone.classifier  # raises if there is none
    if backend == "grad-cam":
        with torch.no_grad():
            x4 = backbone.layer4(x3)
        return _by_package(method, layer, backbone, x3, class_ids), x4
    activation, gradient, x4 = class_gradient(backbone, layer, x3, class_ids, CAMS[method].score)
    return combine(method, activation, gradient), x4


class FromLayer3(nn.Module):
    """The part of a backbone after x3, as a model with layers that pytorch-grad-cam can hook."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.layer3, self.layer4 = nn.Identity(), backbone.layer4

    def forward(self, x3: Tensor) -> Tensor:
        """(N, c3, h, w) -> class logits (N, classes)."""
        return self.backbone.logits(self.layer4(self.layer3(x3)))


def _by_package(method: str, layer: str, backbone: Backbone, x3: Tensor, class_ids: Tensor) -> Tensor:
    """Maps (N, h, w) made and normalised by pytorch-grad-cam."""
    import i2r.nets.backbone.torchvision_ops  # noqa: F401  # isort: skip  (the package imports torchvision)
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model = FromLayer3(backbone)
    targets = [ClassifierOutputTarget(class_id) for class_id in class_ids.tolist()]
    maker = getattr(pytorch_grad_cam, CAMS[method].package)
    with torch.enable_grad(), maker(model=model, target_layers=[getattr(model, layer)]) as package:
        package.get_target_width_height = lambda _: None  # leave the maps on the layer's grid
        maps = package(input_tensor=x3.detach().requires_grad_(), targets=targets)
    return torch.from_numpy(maps).to(x3)


def class_gradient(
    backbone: Backbone, layer: str, x3: Tensor, class_ids: Tensor, score: str = "logit"
) -> tuple[Tensor, Tensor, Tensor]:
    """Activation A and gradient G (N, C, h, w) of `layer`, and x4 (N, c4, h4, w4).

    Args:
        score: "logit", "probability" or "log probability" (of the softmax) of the class; "weight", only at layer4,
            returns the classifier's weights instead of a gradient.
    """
    if layer == "layer4":
        with torch.no_grad():
            x4 = backbone.layer4(x3)
            if score == "weight" or backbone.linear_classifier:
                return x4, _closed_form(backbone, x4, class_ids, score), x4
    with torch.enable_grad():
        leaf = (x3 if layer == "layer3" else x4).detach().requires_grad_()
        x4 = backbone.layer4(leaf) if layer == "layer3" else leaf
        scores = backbone.logits(x4)  # (N, classes)
        if score != "logit":
            scores = scores.softmax(1) if score == "probability" else scores.log_softmax(1)
        (gradient,) = torch.autograd.grad(scores.gather(1, class_ids[:, None]).sum(), leaf)
    return leaf.detach(), gradient, x4.detach()


def _closed_form(backbone: Backbone, x4: Tensor, class_ids: Tensor, score: str) -> Tensor:
    """Gradient (N, c4, h4, w4) at layer4 of a linear classifier, the same in every cell."""
    weight = backbone.classifier.weight  # (classes, c4)
    gradient = weight[class_ids]  # (N, c4)
    if score not in ("logit", "weight"):
        p = backbone.logits(x4).softmax(1)  # (N, classes)
        gradient = gradient - p @ weight
        if score == "probability":
            gradient = gradient * p.gather(1, class_ids[:, None])
    return (gradient / x4[0, 0].numel())[:, :, None, None].expand_as(x4)


@torch.no_grad()
def combine(method: str, a: Tensor, g: Tensor) -> Tensor:
    """Activations and gradients (N, C, h, w) -> rectified map (N, h, w) of a method of config.networks.CAMS."""
    return F.relu(find(CAMS[method].function)(a, g))


# The methods, by the formulas of docs/method.md 3.1: activations a and gradients g (N, C, h, w) -> map (N, h, w), which
# `combine` rectifies.


def hirescam(a: Tensor, g: Tensor) -> Tensor:
    """HiResCAM: gradient times activation."""
    return (g * a).sum(1)


def layercam(a: Tensor, g: Tensor) -> Tensor:
    """LayerCAM: rectified gradient times activation."""
    return (F.relu(g) * a).sum(1)


def gradcam(a: Tensor, g: Tensor) -> Tensor:
    """GradCAM: channels weighted by their mean gradients."""
    return _weighted(g.mean(CELLS), a)


def xgradcam(a: Tensor, g: Tensor) -> Tensor:
    """XGradCAM: channels weighted by their gradients, averaged with the activations as weights."""
    return _weighted((g * a).sum(CELLS) / (a.sum(CELLS) + 1e-7), a)


def gradcam_plus_plus(a: Tensor, g: Tensor) -> Tensor:
    """GradCAM++: channels weighted by a weighted sum of their positive gradients."""
    g2 = g.square()
    alpha = g2 / (2 * g2 + a.sum(CELLS, keepdim=True) * g2 * g + 1e-6)
    return _weighted((F.relu(g) * alpha.where(g != 0, 0)).sum(CELLS), a)


def bagcam(a: Tensor, g: Tensor) -> Tensor:
    """BagCAM: every cell m has its own localiser, which weights channel c by G[c, m] A[c, m] + 1, and the map is the
    average over this bag: sum_c relu(mean_m (G[c, m] A[c, m] + 1) G[c, i] A[c, i]).

    G is the gradient of the log probability in the original (Zhu et al. 2022), of the probability in the released
    code. The original authors' program also rectifies gradients in the backward pass (guided), which is not in the
    formula.
    """
    t = g * a
    return F.relu((t + 1).mean(CELLS, keepdim=True) * t).sum(1)


def classic(a: Tensor, g: Tensor) -> Tensor:
    """The classic CAM: channels weighted by the classifier; g holds its weights, the same in every cell."""
    return _weighted(g[:, :, 0, 0], a)


def _weighted(weights: Tensor, a: Tensor) -> Tensor:
    """Channel weights (N, C) and activations -> (N, h, w)."""
    return torch.einsum("nc,nchw->nhw", weights, a)


def normalise(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Low-resolution maps (..., h, w) -> (..., *size) in 0..1 (docs/method.md 3.1).

    Bilinear resizing, corners not aligned; then for each image min-max with 1e-5 added to the maximum, and a second
    time without epsilon. A constant map gives zeros (NaN in the published code).
    """
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    varies = flat.amax((-2, -1), keepdim=True) > flat.amin(
        (-2, -1), keepdim=True
    )  # tested before the resizing, which rounds
    full = F.interpolate(flat, size, mode="bilinear", align_corners=False)
    full = full - full.amin((-2, -1), keepdim=True)
    full = full / (full.amax((-2, -1), keepdim=True) + 1e-5)
    highest = full.amax((-2, -1), keepdim=True)  # the minimum is 0
    return (full / highest).where(varies & (highest > 0), 0).view(*maps.shape[:-2], *size)


def cam_masks(
    cam_q: Tensor, cam_s: Tensor, masks_s: Tensor, delta: float | str, compare: str = ">="
) -> tuple[Tensor, Tensor]:
    """CAM+ of query and supports, bool (..., H, W), from normalised maps (..., H, W) (docs/method.md 3.2).

    Args:
        masks_s: of the supports (..., H, W) with 1 on the object; used only by the adaptive threshold.
        delta: a number, or "adaptive": the best of each support (`adaptive_thresholds`), and for the query that of
            the shot whose class its map shows. The adaptive threshold always compares with >.
        compare: ">=" (paper) or ">" (released).
    """
    if delta == "adaptive":
        thresholds = adaptive_thresholds(cam_s, masks_s)[..., None, None]
        return cam_q > thresholds, cam_s > thresholds
    if compare == ">=":
        return cam_q >= delta, cam_s >= delta
    return cam_q > delta, cam_s > delta


def adaptive_thresholds(cam_s: Tensor, masks_s: Tensor) -> Tensor:
    """For each support the first of 0, 0.02, ..., 1 at which map > threshold has the best IoU with its mask.

    Args:
        cam_s: normalised maps (..., H, W).
        masks_s: (..., H, W) with 1 on the object. An empty union counts as IoU 0, so an empty mask gives 0.

    Returns:
        (...) of cam_s's dtype; the values are those of float32.
    """
    steps = (torch.arange(51, dtype=torch.float64) * 0.02).to(cam_s.device, torch.float32).to(cam_s.dtype)
    cells = cam_s.shape[-2] * cam_s.shape[-1]
    maps, truth = cam_s.reshape(-1, cells), (masks_s == 1).reshape(-1, cells)  # (N, H * W)
    # histogram of the number of thresholds that a pixel exceeds, for background and object of each image: (N, 2, 52)
    exceeds = torch.bucketize(maps, steps)
    rows = 2 * torch.arange(len(maps), device=maps.device)[:, None] + truth
    bins = len(steps) + 1
    counts = torch.bincount((rows * bins + exceeds).flatten(), minlength=2 * len(maps) * bins)
    above = counts.view(-1, 2, bins).flip(-1).cumsum(-1).flip(-1)  # pixels that exceed at least this many
    inter, union = above[:, 1, 1:], above[:, 0, 1:] + above[:, 1, :1]  # (N, 51)
    best = (inter.double() / union.clamp(min=1)).argmax(-1)  # the first of equals
    return steps[best].view(cam_s.shape[:-2])
