"""The options of each network, and the registries of networks, attention masks, CAM methods and priors.

A network has its options here, as a class, and its code in the module that the class names. Nothing here imports
torch. docs/extending.md describes how to add a network.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from i2r.config.base import Count, Positive, Section, Share, must_be, said


class AttentionMask(NamedTuple):
    """A strategy that masks cells of a cross-attention map (i2r/nets/decoder/attention_masks.py)."""

    function: str  # "package.module:function"
    needs_query: bool = True  # whether it uses the query's mask, which is known in training only


class Cam(NamedTuple):
    """A CAM method: how activations and gradients become a map (i2r/nets/pmgm/cam.py)."""

    function: str
    # quantity whose gradient is taken: logit, probability, log probability; weight: the classifier's weights instead
    score: str = "logit"
    layers: tuple[str, ...] = ("layer3", "layer4")
    package: str | None = None  # its class in pytorch-grad-cam, if there is one


class Prior(NamedTuple):
    """A prior map (i2r/nets/pmgm/priors.py)."""

    function: str
    uses_cam: bool = False


# The registries: one line adds an entry (docs/extending.md).
ATTENTION_MASKS = {
    "dicm": AttentionMask("i2r.nets.decoder.attention_masks:dicm"),
    "column": AttentionMask("i2r.nets.decoder.attention_masks:column"),
    "cyctr": AttentionMask("i2r.nets.decoder.attention_masks:cyctr", needs_query=False),
    "transposed": AttentionMask("i2r.nets.decoder.attention_masks:transposed"),
    "random": AttentionMask("i2r.nets.decoder.attention_masks:random"),
}
CAMS = {
    "xgradcam": Cam("i2r.nets.pmgm.cam:xgradcam", package="XGradCAM"),
    "hirescam": Cam("i2r.nets.pmgm.cam:hirescam", package="HiResCAM"),
    "gradcam": Cam("i2r.nets.pmgm.cam:gradcam", package="GradCAM"),
    "gradcam++": Cam("i2r.nets.pmgm.cam:gradcam_plus_plus", package="GradCAMPlusPlus"),
    "bagcam": Cam("i2r.nets.pmgm.cam:bagcam", score="probability"),
    "bagcam-original": Cam("i2r.nets.pmgm.cam:bagcam", score="log probability"),
    "layercam": Cam("i2r.nets.pmgm.cam:layercam", package="LayerCAM"),
    "cam": Cam("i2r.nets.pmgm.cam:classic", score="weight", layers=("layer4",)),
}
PRIORS = {
    "pmgm": Prior("i2r.nets.pmgm.priors:pmgm", uses_cam=True),
    "ordered": Prior("i2r.nets.pmgm.priors:ordered", uses_cam=True),
    "bam": Prior("i2r.nets.pmgm.priors:bam"),
    "mean": Prior("i2r.nets.pmgm.priors:mean"),
}
IN_PACKAGE = tuple(name for name, cam in CAMS.items() if cam.package)


class NetworkOptions(Section):
    """Common to all networks: the address of the meta learner's class, and what it needs from the encoder."""

    module: ClassVar[str]  # "package.module:Class"

    @property
    def uses_cam(self) -> bool:
        """Whether the network uses class activation maps."""
        return False

    @property
    def uses_base_learner(self) -> bool:
        """Whether the network uses the base learner's logits."""
        return False

    @property
    def uses_pyramid(self) -> bool:
        """Whether the network uses the output of every block of the backbone's layers 2 to 4."""
        return False


DELTA = "a number from 0 to 1, or adaptive"


class CamOptions(NetworkOptions):
    """Options of CAM+ and the priors (docs/method.md 2.3 to 3.4), none of which are trained."""

    cam: Literal[tuple(CAMS)] = Field("xgradcam", description="CAM method (paper Table 6)")
    cam_layer: Literal["layer3", "layer4"] = Field(
        "layer3", description="layer whose activations the CAM weights"
    )
    cam_backend: Literal["native", "grad-cam"] = Field(
        "native", description="native: one gradient for all images; grad-cam: the package pytorch-grad-cam"
    )
    delta: Annotated[Share | Literal["adaptive"], must_be(DELTA)] = Field(
        0.7, description="CAM threshold (paper eq. 2, Figure 5)"
    )
    delta_compare: Literal[">=", ">"] = said("CAM+ is where the map is >= delta, or > delta")
    class_source: Literal["episode", "majority", "table"] = said(
        "class of the CAM: each shot's own, that of most shots, or the ImageNet class of the data set's class"
    )
    prior: str = said(f"prior map: {', '.join(PRIORS)}, or two of them joined by +")

    @property
    def uses_cam(self) -> bool:
        return any(PRIORS[part].uses_cam for part in self.prior.split("+"))

    @field_validator("prior")
    @classmethod
    def _prior(cls, prior: str) -> str:
        parts = prior.split("+")
        if len(parts) > 2 or len(set(parts)) < len(parts) or any(part not in PRIORS for part in parts):
            raise ValueError(f"must be one of {', '.join(PRIORS)} or two of them joined by +, got {prior!r}")
        return prior

    @model_validator(mode="after")
    def _layer(self) -> Self:
        layers = CAMS[self.cam].layers
        if self.cam_layer not in layers:
            raise ValueError(f"cam_layer must be {' or '.join(layers)} for cam: {self.cam}")
        return self

    @model_validator(mode="after")
    def _backend(self) -> Self:
        if self.cam_backend == "grad-cam" and self.cam not in IN_PACKAGE:
            raise ValueError(
                f"cam: {self.cam} is not in pytorch-grad-cam (cam_backend: grad-cam), "
                f"which has {', '.join(IN_PACKAGE)}; use cam_backend: native"
            )
        return self


class EnsembleOptions(CamOptions):
    """Options that I2R and BAM share in addition to those of the priors."""

    ensemble: bool = said("combine with the base learner's prediction (BAM)")
    shot_weights: Literal["mean", "gram"] = said("weights of K shots: equal, or by Gram distance")
    ignore: Literal["255", "background"] = said(
        "unknown pixels of the query's mask in the losses: left out (255), or background"
    )
    width: Positive = Field(256, description="channels of the reduced features and the decoder")
    reduce_dropout: Share = Field(0.5, description="dropout after the reduction of the features")

    @property
    def uses_base_learner(self) -> bool:
        return self.ensemble


class I2ROptions(EnsembleOptions):
    """I2R (docs/method.md 2.3 to 6)."""

    module: ClassVar[str] = "i2r.nets.i2r:I2R"

    name: Literal["i2r"] = Field("i2r", description="the network")
    mask: Literal[("none", *ATTENTION_MASKS)] = said("attention mask in training (Algorithms 1 and S1)")
    support_branch: bool = Field(True, description="decode the supports as well (paper 3.3)")
    blocks: Positive = said("decoder blocks (paper Table S1)")
    cross: Count = said("number of blocks, from the first, that have cross-attention")
    shot_cam: Literal["all", "last"] = said(
        "CAM+ of the query in the merge: weighted mean over the shots, or that of the last shot"
    )
    embedding: bool = said("add a frozen random embedding to the prototypes of the prior (released)")
    detach_merge_input: bool = said("pass no gradient through the merge's input (released)")
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


class HSNetOptions(NetworkOptions):
    """HSNet (Min et al. 2021)."""

    module: ClassVar[str] = "i2r.nets.hsnet:HSNet"

    name: Literal["hsnet"] = Field("hsnet", description="the network")
    channels: Annotated[tuple[Positive, Positive, Positive], must_be("three whole numbers above 0")] = Field(
        (16, 64, 128), description="channels of the three squeezing convolutions, multiples of 4"
    )
    ignore: Literal["255", "background"] = Field(
        "background",
        description="unknown pixels of the query's mask in the loss: left out (255), or background",
    )

    @property
    def uses_pyramid(self) -> bool:
        return True

    @field_validator("channels")
    @classmethod
    def _groups(cls, channels: tuple[int, int, int]) -> tuple[int, int, int]:
        if any(number % 4 for number in channels):
            raise ValueError(f"must be multiples of 4 (the groups of the norms), got {channels}")
        return channels


class QueryOnlyOptions(NetworkOptions):
    """A network without supports: a control."""

    module: ClassVar[str] = "i2r.nets.query_only:QueryOnly"

    name: Literal["query-only"] = Field("query-only", description="the network")
    width: Positive = Field(256, description="channels of the reduced features and the blocks")
    reduce_dropout: Share = Field(0.5, description="dropout after the reduction of the features")
    ignore: Literal["255", "background"] = Field(
        "255", description="unknown pixels of the query's mask in the loss: left out (255), or background"
    )


NETWORKS: dict[str, type[NetworkOptions]] = {
    "i2r": I2ROptions,
    "bam": BAMOptions,
    "hsnet": HSNetOptions,
    "query-only": QueryOnlyOptions,
}


def options_of(name: Any) -> type[NetworkOptions]:
    """The class of the options of a network.

    Raises:
        ValueError: there is no such network.
    """
    if name not in list(NETWORKS):  # a list, because a name from a file may not be hashable
        raise ValueError(f"network.name: must be one of {', '.join(NETWORKS)}, got {name!r}")
    return NETWORKS[name]


def network_options(values: dict[str, Any]) -> NetworkOptions:
    """The options in `values`, checked by the class that `name` chooses.

    Raises:
        ValueError: an unknown network; pydantic's ValidationError for wrong options.
    """
    return options_of(values.get("name", "i2r"))(**values)
