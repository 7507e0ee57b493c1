"""The sections of params: every value, its default and what it means. docs/params.md is made from it.

Defaults are the paper's experiment; where paper, released code and BAM differ, the default is
`reading`, which stands for the value of the chosen reading (config/readings.py).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from i2r.config.base import Count, NotNegative, Once, Positive, Rate, Section, Share, must_be, said
from i2r.config.data_set import SOURCES, Data, grid_side
from i2r.config.networks import DELTA, NetworkOptions, network_options
from i2r.config.training import Augment, BaseAugment, Schedule, validation_steps

FROM_ONE_SHOT = "1shot"  # train.start
GRIDS = ("original", "bam", "released", "size")  # on which predictions are scored (docs/method.md 8.2)
WITHOUT_TTA = "without_tta"  # the first pass of test-time augmentation alone, on the grid of evaluate.scoring
YARDSTICKS = (*GRIDS, WITHOUT_TTA)  # of one evaluation


class Pretrain(Schedule):
    """Training of the `small` backbone as a classifier of single objects."""

    steps: int | str = Field(1800, description=Schedule.model_fields["steps"].description)
    batch: Positive = Field(64, description="object crops per step")
    lr: Rate = Field(0.004, description="learning rate")
    optimiser: Literal["sgd", "adamw"] = Field("adamw", description="sgd or adamw")
    warmup: Share = Field(0.1, description="share of the steps during which the learning rate rises")
    weight_decay: NotNegative = Field(0.05, description="weight decay")
    crop: Positive = Field(48, description="side of a crop in pixels")
    margin: Count = Field(8, description="images are generated larger than a crop by this many pixels")
    pictures: Positive = Field(16000, description="images to generate before the training, at most")
    held_out: Positive = Field(1000, description="images on which the accuracy is measured")
    seed: Count = Field(0, description="seed of initial weights, images and their order")


class Backbone(Section):
    """The frozen network that makes the features."""

    name: str = said(
        "resnet50, resnet101, squeezenet1_1, resnet50-bam, resnet101-bam, vgg16-bam, vit_small_14 or small"
    )
    weights: str | None = Field(
        None,
        description="a .safetensors or .pth file, which counts by its content; null: the published ImageNet weights, "
        "in runtime.data_root",
    )
    digest: str | None = Field(None, description="sha256 of that file; with it a plan does not need the file")
    stride_at: Literal["3x3", "1x1"] = Field(
        "3x3", description="convolution of a bottleneck with the stride: 3x3 (torchvision) or 1x1 (He et al.)"
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="of the frozen convolutions in episodes; bf16: products in bfloat16, everything else in float32",
    )
    pretrain: Pretrain = Field(
        default_factory=Pretrain, description="training of `small`; no other is trained here"
    )

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        if name not in BACKBONES:
            raise ValueError(f"must be one of {', '.join(BACKBONES)}, got {name!r}")
        return name

    @model_validator(mode="after")
    def _digest(self) -> Self:
        if self.digest and not self.weights:
            raise ValueError("digest is given, but weights does not name a file")
        return self


class BackboneEntry(NamedTuple):
    """A backbone of the registry."""

    build: str  # "package.module:function", called with this section and the number of classes
    classifier: bool = True  # whether its published weights have a classifier, which CAMs need
    archive: str = ""  # its published weights in i2r/data/fetch/archives.csv


BACKBONES: dict[str, BackboneEntry] = {
    "small": BackboneEntry("i2r.nets.backbone.small:small"),
    "resnet50": BackboneEntry("i2r.nets.backbone.resnet:resnet", archive="resnet50-v2"),
    "resnet101": BackboneEntry("i2r.nets.backbone.resnet:resnet", archive="resnet101-v2"),
    "squeezenet1_1": BackboneEntry("i2r.nets.backbone.squeezenet:squeezenet", archive="squeezenet1_1"),
    "resnet50-bam": BackboneEntry("i2r.nets.backbone.resnet:resnet_bam", archive="resnet50-bam"),
    "resnet101-bam": BackboneEntry("i2r.nets.backbone.resnet:resnet_bam", archive="resnet101-bam"),
    "vgg16-bam": BackboneEntry("i2r.nets.backbone.vgg:vgg16_bam", classifier=False, archive="vgg16_bn"),
    "vit_small_14": BackboneEntry("i2r.nets.backbone.vit:vit_small_14", classifier=False),
}


class BaseLearner(Schedule):
    """PSPNet on the fold's training classes (docs/method.md 2.1)."""

    trains: Literal["head", "all"] = said(
        "head: the head on frozen features; all: the backbone as well (BAM)"
    )
    list: Literal["all", "fold"] = said(
        "its images. all: the master lists, with objects of test classes as background; fold: the fold's training "
        "list, and the validation images that show a base class"
    )
    size: Positive | None = said("side of its images in pixels, like data.size; null: data.size")
    optimiser: Literal["sgd", "adamw"] = said("sgd or adamw")
    warmup: Share = said("share of the steps during which the learning rate rises")
    steps: int | str = said("training steps, or passes over the training images such as `100 epochs`")
    batch: Positive = said("images per step")
    lr: Rate = said("learning rate of pyramid and classifier")
    backbone_rate: NotNegative = said("the backbone's learning rate, relative to lr")
    width: Positive = Field(512, description="channels before the classifier; at most as many as layer4 has")
    dropout: Share = Field(0.1, description="dropout before the classifier")
    validate_every: Count = said("epochs between validations; 0: only at the end")
    checkpoint: Literal["best", "last"] = said(
        "weights that are used: those of the validation with the best mIoU of the base classes, or the last"
    )
    patience: Count = said(
        "epochs without a better validation after which it stops; 0: it does not stop early"
    )
    augment: BaseAugment = Field(default_factory=BaseAugment, description="augmentation with trains: all")
    seed: Count = Field(0, description="seed of initial weights, order and views")
    weights: str | None = Field(
        None, description="file of a base learner trained elsewhere; may contain {fold}; null: train one"
    )

    @field_validator("size")
    @classmethod
    def _grid(cls, size: int | None) -> int | None:
        return size if size is None else grid_side(size)

    def validations(self, images: int) -> tuple[int, ...]:
        """Numbers of steps after which the base learner is validated, the last step included.

        images: number of training images; an epoch is one pass over them. `steps` must be a number, see `over`.
        """
        return validation_steps(self, self.validate_every, images)


class CamHead(Schedule):
    """The classifier that CAMs are made of (docs/method.md 2.2)."""

    mode: Literal["pretrained", "untouched", "retrained", "none"] = said(
        "pretrained: that of the frozen backbone; untouched: the ImageNet classifier on a backbone that the base "
        "learner has changed; retrained: trained to imitate the ImageNet network; none: no CAMs"
    )
    list: Literal["all", "fold"] = said(
        "images of mode retrained, all those with a training class. all: of the master list; fold: of the fold's list"
    )
    temperature: Rate = Field(3.0, description="temperature of the imitation loss")
    steps: int | str = Field("100 epochs", description=Schedule.model_fields["steps"].description)
    batch: Positive = Field(16, description="objects per step")
    lr: Rate = Field(0.01, description="learning rate")
    seed: Count = Field(0, description="seed of the order")


class Train(Schedule):
    """Training of the meta learner on episodes (docs/method.md 8.1)."""

    steps: int | str = said("training steps, or passes over the training images such as `300 epochs`")
    batch: Positive = said("episodes per step")
    lr: Rate = said("learning rate")
    sampling: Literal["image", "balanced", "pairs", "balanced-pairs"] = Field(
        "image",
        description="image: each image is a query once per epoch (BAM); balanced: classes equally often; pairs: two "
        "places of a batch ask one query for two of its classes; balanced-pairs: the same, with the first of the "
        "classes drawn equally often",
    )
    paste: Share = Field(
        0.0,
        description="probability that an object of another training class is pasted into the query, which is then "
        "asked for either class (by a pair for both)",
    )
    precision: Literal["fp32", "bf16"] = said("fp32 or bf16")
    augment: Augment = Field(default_factory=Augment, description="augmentation of query and supports")
    validate_every: NotNegative = Field(
        0.0,
        description="epochs between validations on held-out episodes of training classes (0.5: twice in each); 0: "
        "none. The best weights are kept beside the last",
    )
    validation_episodes: Positive = Field(200, description="number of held-out episodes")
    checkpoints: Count = Field(
        0,
        description="number of evenly spaced weights that are kept besides the last (9: at 10 %, 20 %, ... of the "
        "steps), for evaluate.checkpoint: all",
    )
    start: str | None = Field(
        None,
        description="initial weights: a file (may contain {fold}, {shot}, {seed}), or 1shot: those of the 1-shot "
        "training; null: random",
    )
    weights: str | None = Field(
        None, description="file (as in start) that is evaluated without a training; null: train"
    )

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if self.sampling in ("pairs", "balanced-pairs") and self.batch % 2:
            raise ValueError(f"sampling: {self.sampling} needs an even batch, got {self.batch}")
        return self

    @model_validator(mode="after")
    def _start(self) -> Self:
        if self.weights and self.start:
            raise ValueError(
                "weights and start: give only one of them, because weights are not trained further"
            )
        return self

    def validations(self, images: int) -> tuple[int, ...]:
        """Numbers of steps after which the meta learner is validated; as for the base learner."""
        return validation_steps(self, self.validate_every, images)

    def kept_steps(self) -> tuple[int, ...]:
        """Numbers of steps after which weights are kept; `steps` must be a number, see `over`. The last step is none
        of them."""
        ends = (self.steps * part // (self.checkpoints + 1) for part in range(1, self.checkpoints + 1))
        return tuple(dict.fromkeys(end for end in ends if end))


class Evaluate(Section):
    """Evaluation on the fixed test episodes; no value here changes a training."""

    episodes: Positive = Field(1000, description="test episodes per fold")
    protocol: Literal["bam", "hsnet", "full", "balanced"] = Field(
        "bam",
        description="bam: queries in the order of the list, the class drawn among theirs; hsnet: class, then query, "
        "drawn evenly; full: each query once, whatever evaluate.episodes; balanced: equally many of each class",
    )
    seeds: Annotated[list[Count], Once] = Field(
        [0], min_length=1, description="seeds; each draws its own test episodes"
    )
    scoring: Literal[GRIDS] = said(
        "grid of the main score (docs/method.md 8.2); the others are counted beside it"
    )
    tta: Literal["none", "scales", "released"] = said("test-time augmentation at sides 1, 0.8 and 1.25 of S")
    mask: Literal["none", "cyctr"] = Field("none", description="attention mask at test (paper Table 3)")
    checkpoint: Literal["last", "best", "all"] = Field(
        "last",
        description="weights of the training: the last, or those of its best validation (train.validate_every); all: "
        "the last, and beside its scores those of every other that was kept (train.checkpoints)",
    )
    delta: Annotated[Share | Literal["adaptive"] | None, must_be(DELTA)] = Field(
        None, description="CAM threshold at test; null: as in training"
    )
    pictures: Count = Field(12, description="number of episodes whose images and predictions are kept")
    controls: Count = Field(
        150,
        description="number of test episodes, of the first evaluation seed, that are repeated with wrong, absent, "
        "perfect and shuffled supports; 0: none; ablation targets have none",
    )


class Baselines(Section):
    """Baselines without training."""

    threshold_episodes: Positive = Field(
        500, description="number of episodes of training classes on which the thresholds are chosen"
    )
    embeddings: Positive = Field(
        5,
        description="random embeddings that are drawn where network.embedding adds one to the prototypes; each gives "
        "another prior",
    )


class Sections(Section):
    """The sections that an experiment has for all its methods, and in which a method can differ."""

    data: Data = Field(description="data set and lists")
    backbone: Backbone = Field(description="frozen features")
    base_learner: BaseLearner = Field(description="PSPNet on the training classes")
    cam_head: CamHead = Field(description="classifier that CAMs are made of")
    network: SerializeAsAny[NetworkOptions] = Field(description="the network and its options")
    train: Train = Field(description="training on episodes")
    evaluate: Evaluate = Field(description="test episodes and scores")
    baselines: Baselines = Field(description="baselines without training")

    @field_validator("network", mode="before")
    @classmethod
    def _network(cls, values: Any) -> Any:
        return network_options(values) if isinstance(values, dict) else values


class RunParams(Sections):
    """The sections that a method runs with; impossible combinations are refused."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        mode, trains = self.cam_head.mode, self.base_learner.trains
        if mode == "none" and self.network.uses_cam:
            raise ValueError("cam_head.mode: none, but the network's prior needs a CAM")
        if mode == "pretrained" and not BACKBONES[self.backbone.name].classifier:
            raise ValueError(
                f"cam_head.mode: pretrained, but {self.backbone.name} has no classifier; use none, and a prior "
                "without a CAM (network.prior: mean or bam)"
            )
        if mode == "pretrained" and trains == "all":
            raise ValueError(
                "cam_head.mode: pretrained does not fit a backbone that base_learner.trains: all changes; "
                "use retrained or untouched"
            )
        if mode in ("untouched", "retrained") and trains == "head":
            raise ValueError(
                f"cam_head.mode: {mode} is for a backbone that the base learner has changed, but "
                "base_learner.trains is head; use pretrained"
            )
        if self.network.uses_cam and not BACKBONES[self.backbone.name].classifier:
            raise ValueError(
                f"backbone.name: {self.backbone.name} has no classifier, which a CAM needs; use a network.prior "
                "without a CAM (bam, mean)"
            )
        if self.evaluate.mask != "none" and not hasattr(self.network, "mask"):
            raise ValueError(
                f"evaluate.mask: {self.evaluate.mask}, but the network {self.network.name} has no attention to mask"
            )
        if self.evaluate.checkpoint == "best" and (self.train.weights or not self.train.validate_every):
            raise ValueError(
                "evaluate.checkpoint: best needs a training with validations (train.validate_every)"
            )
        if self.evaluate.checkpoint == "all" and (self.train.weights or not self.train.checkpoints):
            raise ValueError(
                "evaluate.checkpoint: all needs a training that keeps checkpoints (train.checkpoints)"
            )
        if mode == "retrained" and self.backbone.name == "squeezenet1_1":
            raise ValueError(
                "cam_head.mode: retrained needs a linear classifier on averages, which squeezenet1_1 does not have"
            )
        if self.base_learner.validate_every and SOURCES[self.data.source].by_list:
            raise ValueError(
                f"base_learner.validate_every: {self.base_learner.validate_every}, but no validation image of "
                f"{self.data.source} shows a training class; use 0"
            )
        backbone = self.backbone
        if backbone.weights is None and backbone.name != "small" and not BACKBONES[backbone.name].archive:
            raise ValueError(f"backbone.weights: there is no default file for {backbone.name}; name one")
        if backbone.weights is None and backbone.stride_at != "3x3":
            raise ValueError(
                f"backbone.stride_at: the published weights of {backbone.name} are for 3x3, not {backbone.stride_at}"
            )
        if self.backbone.name == "small" and self.data.source != "shapes":
            raise ValueError(
                "backbone.name: small is pretrained on the generated objects of data.source: shapes; "
                "photographs need another backbone"
            )
        return self
