"""Backbones with one interface: images -> features of layer2, layer3 and layer4 -> class logits.

Grids at an image of side S (rounded as convolutions do), and channels of layer2, layer3, layer4:

| name          | strides  | channels        | layers                                                        |
| ------------- | -------- | --------------- | ------------------------------------------------------------- |
| resnet50, 101 | 8 16 32  | 512 1024 2048   | torchvision's                                                 |
| resnet50-bam  | 8 8 8    | 512 1024 2048   | BAM's: stem of three 3x3 convolutions, layer3, layer4 dilated |
| vgg16-bam     | 16 16 16 | 256 512 512     | VGG-16 with BN in BAM's blocks; x2 is resized to x3's grid    |
| squeezenet1_1 | 8 16 16  | 256 384 512     | features 6-7, 8-10, 11-12                                     |
| small         | 4 8 8    | 32 64 128       | for the generated data set                                    |
| vit_small_14  | 14 14 14 | 384 384 384     | DINOv2's ViT-S/14, blocks 1-6, 7-9, 10-12; no classifier      |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from i2r.config import schema
from i2r.config.registry import find
from i2r.errors import InputError
from i2r.nets.precision import full


class Layout(NamedTuple):
    """Properties of a backbone that are needed to build a meta learner."""

    channels: tuple[int, int, int]  # of layer2, layer3, layer4
    blocks: tuple[int, int, int]  # number of blocks of each layer in the pyramid


class Maps(NamedTuple):
    """Features of N unmasked images."""

    x2: Tensor  # (N, c2, h2, w2)
    x3: Tensor  # (N, c3, h, w)
    x4: Tensor  # (N, c4, h4, w4)
    pyramid: tuple[Tensor, ...] | None  # outputs (N, c, h, w) of the blocks of layers 2 to 4, if requested


class Backbone(nn.Module):
    """Five feature layers and a classifier.

    Attributes:
        layer0 ... layer4: the layers; layer4 takes x3 and returns x4.
        fc: linear classifier, channels[2] -> classes; None if the weights have none.
        channels: of layer2, layer3, layer4.
        linear_classifier: logits are linear in x4 (fc of the global average pool). Otherwise (SqueezeNet) fc and
            a ReLU are applied in every cell, and the results averaged.
        masks_output: supports are masked at x4; otherwise x3 is masked and layer4 computed from it.
    """

    masks_output = False

    def __init__(
        self,
        layers: Sequence[nn.Module],
        channels: tuple[int, int, int],
        classes: int,
        linear_classifier: bool = True,
        resize_layer2: bool = False,
        block: type[nn.Module] | None = None,
    ) -> None:
        """
        Args:
            block: class of the modules of layers 2 to 4 whose outputs are in the pyramid; None: residual blocks.
        """
        super().__init__()
        self.layer0, self.layer1, self.layer2, self.layer3, self.layer4 = layers
        self.fc: nn.Linear | None = nn.Linear(channels[2], classes)
        self.channels = channels
        self.linear_classifier = linear_classifier
        self.resize_layer2 = resize_layer2
        self.block = block

    @property
    def layout(self) -> Layout:
        """Channels and numbers of blocks of layers 2 to 4."""
        layers = (self.layer2, self.layer3, self.layer4)
        return Layout(self.channels, tuple(sum(self.is_block(part) for part in layer) for layer in layers))

    @property
    def classifier(self) -> nn.Linear:
        """`fc`.

        Raises:
            InputError: there is none.
        """
        if self.fc is None:
            raise InputError("the backbone's weights have no classifier (fc.*), which a CAM needs")
        return self.fc

    def is_block(self, part: nn.Module) -> bool:
        """Whether the output of this part of a layer is in the pyramid."""
        return hasattr(part, "downsample") if self.block is None else isinstance(part, self.block)

    def to_layer3(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images (N, 3, H, W) -> x2 (N, c2, h2, w2) and x3 (N, c3, h, w)."""
        x2 = self.layer2(self.layer1(self.layer0(images)))
        x3 = self.layer3(x2)
        return self._resized(x2, x3), x3

    def maps(self, images: Tensor, pyramid: bool = False) -> Maps:
        """Features of normalised images (N, 3, H, W)."""
        if not pyramid:
            x2, x3 = self.to_layer3(images)
            return Maps(x2, x3, self.layer4(x3), None)
        outputs: list[Tensor] = []
        x = self.layer1(self.layer0(images))
        x2 = self._collect(self.layer2, x, outputs)
        x3 = self._collect(self.layer3, x2, outputs)
        x4 = self._collect(self.layer4, x3, outputs)
        return Maps(self._resized(x2, x3), x3, x4, tuple(outputs))

    def masked(self, x3: Tensor, x4: Tensor | None, mask: Tensor) -> Tensor:
        """Layer4 features (N, c4, h4, w4) of masked images.

        Args:
            x3, x4: of the unmasked images; x4 is needed only with `masks_output`.
            mask: (N, 1, H, W) in 0..1.
        """
        small = F.interpolate(mask.to(x3.dtype), x3.shape[-2:], mode="bilinear", align_corners=True)
        return self.layer4(x3 * small)

    def logits(self, x4: Tensor) -> Tensor:
        """Class logits (N, classes) of layer4 features (N, c4, h4, w4).

        Raises:
            ValueError: there is no classifier.
        """
        fc = self.classifier
        if self.linear_classifier:
            return fc(x4.mean((2, 3)))
        return F.relu(fc(x4.flatten(2).transpose(1, 2))).mean(1)

    def classify(self, images: Tensor) -> Tensor:
        """Class logits (N, classes) of normalised images (N, 3, H, W)."""
        return self.logits(self.layer4(self.to_layer3(images)[1]))

    forward = classify

    def _resized(self, x2: Tensor, x3: Tensor) -> Tensor:
        if not self.resize_layer2:
            return x2
        return F.interpolate(x2, x3.shape[-2:], mode="bilinear", align_corners=True)

    def _collect(self, layer: nn.Sequential, x: Tensor, outputs: list[Tensor]) -> Tensor:
        """Output of a layer; appends the outputs of its blocks (residual ones before the last ReLU) to `outputs`."""
        for part in layer:
            if hasattr(part, "downsample"):
                outputs.append(before_relu(part, x))
                x = F.relu(outputs[-1])
            else:
                x = part(x)
                if self.is_block(part):
                    outputs.append(x)
        outputs[:] = map(full, outputs)  # within a layer they can be bfloat16
        return full(x)


def before_relu(block: nn.Module, x: Tensor) -> Tensor:
    """Output of a residual block (conv1, bn1, conv2 ... and downsample) before its last ReLU."""
    last = 3 if hasattr(block, "conv3") else 2
    y = x
    for number in range(1, last + 1):
        y = getattr(block, f"bn{number}")(getattr(block, f"conv{number}")(y))
        y = F.relu(y) if number < last else y
    return y + (x if block.downsample is None else block.downsample(x))


def initialise(modules: Iterable[nn.Module]) -> None:
    """Random values of He et al. for the convolutions among `modules` that have values.

    For one without, which is loaded next (nets/io/weights.py), torch would import its compiler: a second of each job.
    """
    for module in modules:
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def build_backbone(options: schema.Backbone, classes: int = 1000, dense: bool = True) -> Backbone:
    """The backbone `options.name` of the registry (config.schema.BACKBONES), initialised at random.

    Args:
        classes: of the classifier.
        dense: False gives `small` a strided layer4, for pretraining on crops. The weights fit both forms.
    """
    build = find(schema.BACKBONES[options.name].build)
    return build(options, classes) if dense else build(options, classes, dense=False)
