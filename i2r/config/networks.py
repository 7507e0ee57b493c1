"""The options of each network. A network is a class here and the file that it names; nothing here imports torch.

To add one: write its module, then its options here (docs/extending.md).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from i2r.config.base import Count, Positive, Section, Share, said

# Methods that the package pytorch-grad-cam has, by their names there.
GRAD_CAM = {
    "xgradcam": "XGradCAM",
    "hirescam": "HiResCAM",
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "layercam": "LayerCAM",
}
PRIORS = ("pmgm", "ordered", "bam", "mean")
CAM_PRIORS = ("pmgm", "ordered")  # those that are made of CAM+ and CAM-


class NetworkOptions(Section):
    """What every network has: the name of its module's class, and what it wants of the frozen part."""

    module: ClassVar[str]  # "package.module:Class"

    @property
    def uses_cam(self) -> bool:
        """Whether the network looks at class activation maps."""
        return False

    @property
    def uses_base_learner(self) -> bool:
        """Whether the network looks at the base learner's logits."""
        return False

    @property
    def uses_pyramid(self) -> bool:
        """Whether the network looks at the output of every block of the backbone's layers 2 to 4."""
        return False


class CamOptions(NetworkOptions):
    """What decides CAM+ and the priors (docs/method.md 2.3 to 3.4); nothing of it is trained."""

    cam: Literal[
        "xgradcam", "hirescam", "gradcam", "gradcam++", "bagcam", "bagcam-original", "layercam", "cam"
    ] = Field("xgradcam", description="CAM method (paper Table 6)")
    cam_layer: Literal["layer3", "layer4"] = Field(
        "layer3", description="layer whose activations the CAM weighs"
    )
    cam_backend: Literal["native", "grad-cam"] = Field(
        "native", description="our one-gradient CAM, or the package pytorch-grad-cam for the methods it has"
    )
    delta: Share | Literal["adaptive"] = Field(0.7, description="CAM threshold (paper eq. 2, Figure 5)")
    delta_compare: Literal[">=", ">"] = said("CAM+ is where the map is >= delta, or > delta")
    class_source: Literal["episode", "majority", "table"] = said(
        "class of the CAM: each shot's own, the majority of the shots, or a table by the data set's class"
    )
    prior: str = said("prior map: pmgm, ordered, bam, mean, or two of them joined by +")

    @property
    def uses_cam(self) -> bool:
        return any(part in CAM_PRIORS for part in self.prior.split("+"))

    @field_validator("prior")
    @classmethod
    def _prior(cls, prior: str) -> str:
        parts = prior.split("+")
        if len(parts) > 2 or len(set(parts)) < len(parts) or any(part not in PRIORS for part in parts):
            raise ValueError(
                f"prior must be one of {', '.join(PRIORS)} or two of them joined by +, got {prior!r}"
            )
        return prior

    @model_validator(mode="after")
    def _layer(self) -> Self:
        if self.cam == "cam" and self.cam_layer != "layer4":
            raise ValueError("cam_layer must be layer4 for cam: cam (the classic CAM)")
        return self

    @model_validator(mode="after")
    def _backend(self) -> Self:
        if self.cam_backend == "grad-cam" and self.cam not in GRAD_CAM:
            raise ValueError(
                f"cam: {self.cam} is not in the package of cam_backend: grad-cam, "
                f"which has {', '.join(GRAD_CAM)}; take cam_backend: native"
            )
        return self


class EnsembleOptions(CamOptions):
    """What I2R and BAM share beside the priors."""

    ensemble: bool = said("fuse with the base learner's prediction (BAM)")
    shot_weights: Literal["mean", "gram"] = said("weights of K shots: equal, or by Gram similarity")
    ignore: Literal["255", "background"] = said("unknown pixels of the query's mask in the losses")
    width: Positive = Field(256, description="channels of the reduced features and the decoder")
    reduce_dropout: Share = Field(0.5, description="dropout after the reduction of the features")

    @property
    def uses_base_learner(self) -> bool:
        return self.ensemble


class I2ROptions(EnsembleOptions):
    """I2R (docs/method.md 2.3 to 6)."""

    module: ClassVar[str] = "i2r.nets.i2r:I2R"

    name: Literal["i2r"] = Field("i2r", description="the network")
    mask: Literal["none", "dicm", "column", "cyctr", "transposed", "random"] = said(
        "attention mask in training (Algorithms 1 and S1)"
    )
    support_branch: bool = Field(True, description="a decoder for the supports, too (paper 3.3)")
    blocks: Positive = said("decoder blocks (paper Table S1)")
    cross: Count = said("how many of them, the first ones, have cross-attention")
    shot_cam: Literal["all", "last"] = said(
        "CAM+ of the query in the merge: all shots' weighted, or the last's"
    )
    embedding: bool = said("add the released code's frozen random embedding to the prototypes")
    detach_merge_input: bool = said("cut the gradient before the merge, as the released code does")
    dropout: Share = Field(0.1, description="dropout in the decoder's attention")

    @model_validator(mode="after")
    def _blocks(self) -> Self:
        if self.cross > self.blocks:
            raise ValueError(f"cross ({self.cross}) cannot be larger than blocks ({self.blocks})")
        return self


class BAMOptions(EnsembleOptions):
    """BAM (docs/method.md 7)."""

    module: ClassVar[str] = "i2r.nets.bam:BAM"

    name: Literal["bam"] = Field("bam", description="the network")
    prior: str = Field("bam", description=CamOptions.model_fields["prior"].description)
    dropout: Share = Field(0.1, description="dropout before the last convolution")


NETWORKS: dict[str, type[NetworkOptions]] = {"i2r": I2ROptions, "bam": BAMOptions}


def network_options(values: dict[str, Any]) -> NetworkOptions:
    """The checked options of `values`, whose `name` says which network they are for.

    Raises:
        ValueError: an unknown network; pydantic's ValidationError for wrong options.
    """
    name = values.get("name", "i2r")
    if name not in NETWORKS:
        raise ValueError(f"network.name: must be one of {', '.join(NETWORKS)}, got {name!r}")
    return NETWORKS[name](**values)
