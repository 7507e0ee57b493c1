"""The schema of params.yaml: every number of an experiment, checked before anything runs.

Unknown keys, wrong types and impossible combinations are refused with a sentence that names the key.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from i2r.readings import settle


class ParamsError(ValueError):
    """A params file that cannot be used; the message names the key and what would be right."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


FROM_ONE_SHOT = "1shot"  # method.start

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Fold = Annotated[int, Field(ge=0, le=3)]


class Run(Section):
    """What is trained and evaluated: every combination of these."""

    folds: list[Fold] = Field(min_length=1)
    shots: list[Positive] = Field(min_length=1)
    seeds: list[Count] = Field(min_length=1)
    methods: list[str] = Field(min_length=1)


class Shapes(Section):
    """The embedded data set (i2r/data/shapes.py)."""

    train_images: Positive
    val_images: Positive
    seed: Count


class Data(Section):
    source: Literal["shapes", "voc"]
    root: str | None
    digest: str | None
    size: Positive
    train_list: str
    val_list: str
    novel: Literal["drop", "keep"]
    min_area: Count
    min_class_images: Positive
    shapes: Shapes

    @field_validator("size")
    @classmethod
    def _grid(cls, size: int) -> int:
        if (size - 1) % 8:
            raise ValueError(f"size - 1 must be a multiple of 8 (473, 321, 97 ...), got {size}")
        return size

    @model_validator(mode="after")
    def _root(self) -> Data:
        if self.source == "voc" and not self.root:
            raise ValueError("root must name the folder with JPEGImages/ when source is voc")
        return self


class Schedule(Section):
    """SGD with momentum or AdamW (momentum: its first beta), warm-up, and a polynomial decay by step."""

    optimiser: Literal["sgd", "adamw"]
    warmup: Share
    steps: int | str
    batch: Positive
    lr: Rate
    momentum: Share
    weight_decay: Annotated[float, Field(ge=0)]
    power: Annotated[float, Field(ge=0)]

    @field_validator("steps", mode="plain")
    @classmethod
    def _steps(cls, steps: Any) -> int | str:
        if not (found := re.fullmatch(r"([1-9]\d*)( epochs)?", str(steps))):
            raise ValueError("must be a number of steps or passes over the images, such as 300 epochs")
        return steps if found[2] else int(steps)

    def over(self, images: int) -> Self:
        """The same with `steps` as a number, also where they are given as passes over so many images."""
        if isinstance(self.steps, int):
            return self
        steps = int(self.steps.split()[0]) * images // self.batch
        return self.model_copy(update={"steps": max(1, steps)})


class Backbone(Section):
    name: Literal[
        "small", "resnet50", "resnet101", "squeezenet1_1", "resnet50-bam", "resnet101-bam", "vgg16-bam"
    ]
    weights: str | None
    digest: str | None = None  # sha256 of the file `weights`
    stride_at: Literal["3x3", "1x1"]
    pretrain: Schedule | None = None  # of `small`, the one that is pretrained here

    @model_validator(mode="after")
    def _digest(self) -> Self:
        if self.digest and not self.weights:
            raise ValueError("digest is that of the file weights, which names none")
        return self


class BaseLearner(Schedule):
    trains: Literal["head", "all"]
    weights: str | None = None  # trained elsewhere: a file, {fold} in its name is the fold


class CamHead(Schedule):
    mode: Literal["pretrained", "retrained", "none"]
    temperature: Rate


# Methods that the package pytorch-grad-cam has, by their names there.
GRAD_CAM = {
    "xgradcam": "XGradCAM",
    "hirescam": "HiResCAM",
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "layercam": "LayerCAM",
}


CAM_PRIORS = ("pmgm", "ordered")  # those that are made of CAM+ and CAM-


class CamOptions(Section):
    """What decides CAM+ and the priors (docs/method.md 2.3 to 3.4); needs no training."""

    cam: Literal[
        "xgradcam", "hirescam", "gradcam", "gradcam++", "bagcam", "bagcam-original", "layercam", "cam"
    ]
    cam_layer: Literal["layer3", "layer4"]
    cam_backend: Literal["native", "grad-cam"]
    delta: Share | Literal["adaptive"]
    delta_compare: Literal[">=", ">"]
    class_source: Literal["episode", "majority", "table"]
    prior: str

    @property
    def uses_cam(self) -> bool:
        """Whether any part of the method looks at a CAM: the priors by CAM do, and with them I2R's merge."""
        return any(part in CAM_PRIORS for part in self.prior.split("+"))

    @field_validator("prior")
    @classmethod
    def _prior(cls, prior: str) -> str:
        known = ("pmgm", "ordered", "bam", "mean")
        parts = prior.split("+")
        if len(parts) > 2 or len(set(parts)) < len(parts) or any(part not in known for part in parts):
            raise ValueError(
                f"prior must be one of {', '.join(known)} or two of them joined by +, got {prior!r}"
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


class Method(CamOptions):
    """One method: the network and every option of it (docs/method.md 2.3 to 7.4)."""

    network: Literal["i2r", "bam"]
    mask: Literal["none", "dicm", "column", "cyctr", "transposed", "random"]
    mask_test: Literal["none", "cyctr"]
    support_branch: bool
    blocks: Positive
    cross: Count
    ensemble: bool
    shot_weights: Literal["mean", "gram"]
    shot_cam: Literal["all", "last"]
    embedding: bool
    detach_merge_input: bool
    ignore: Literal["255", "background"]
    width: Positive
    dropout: Share
    reduce_dropout: Share
    # Files of weights; {fold}, {shot} and {seed} in a name stand for those of the job.
    weights: str | None = None  # evaluated as they are, nothing is trained
    start: str | None = None  # training starts from them; 1shot: from the method's own training with one shot

    @model_validator(mode="after")
    def _start(self) -> Method:
        if self.weights and self.start:
            raise ValueError("weights and start: take one, for what has weights is not trained")
        return self

    @model_validator(mode="after")
    def _blocks(self) -> Self:
        if self.cross > self.blocks:
            raise ValueError(f"cross ({self.cross}) cannot be larger than blocks ({self.blocks})")
        return self


class Augment(Section):
    """Random changes of a training image; `views` > 0 fixes that many a picture so that features can be kept."""

    views: Count
    scale: tuple[Rate, Rate]
    fit: bool
    rotate: Annotated[float, Field(ge=0)]
    rotate_p: Share
    blur_p: Share
    flip_p: Share


class Train(Schedule):
    sampling: Literal["image", "balanced"]
    precision: Literal["fp32", "bf16"]
    augment: Augment


class Evaluate(Section):
    episodes: Positive
    seeds: list[Count] = Field(min_length=1)
    scoring: Literal["original", "bam", "released", "size"]
    tta: Literal["none", "scales", "released"]


class Baselines(Section):
    """Baselines without training: their thresholds are chosen on episodes of the training classes."""

    threshold_episodes: Positive


class Ablate(Section):
    folds: list[Fold]
    seeds: list[Count]
    methods: list[str]


class Report(Section):
    pictures: Count
    bootstrap: Positive
    margin: Annotated[float, Field(ge=0)]


class Runtime(Section):
    """How to run, not what: none of these changes a number, none is part of a result's key."""

    device: str
    threads: Positive
    workers: Count
    save_every: Rate
    cache_gb: Annotated[float, Field(ge=0)]


class Params(Section):
    experiment: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    reading: Literal["paper", "released", "bam"]
    run: Run
    data: Data
    backbone: Backbone
    base_learner: BaseLearner
    cam_head: CamHead
    method: Method
    methods: dict[str, dict[str, Any]]
    train: Train
    evaluate: Evaluate
    baselines: Baselines
    ablate: Ablate
    report: Report
    runtime: Runtime

    @model_validator(mode="after")
    def _pretrain(self) -> Params:
        if self.backbone.name == "small" and self.backbone.pretrain is None:
            raise ValueError("backbone.pretrain: missing, but small has to be pretrained")
        return self

    @model_validator(mode="after")
    def _methods(self) -> Params:
        for where, names in (("run.methods", self.run.methods), ("ablate.methods", self.ablate.methods)):
            for name in names:
                if name not in self.methods:
                    raise ValueError(f"{where}: {name!r} is not among methods ({', '.join(self.methods)})")
        for name in self.methods:
            self.resolve(name)
            self.training(name)
        for name in (*self.run.methods, *self.ablate.methods):
            if self.cam_head.mode == "none" and self.resolve(name).uses_cam:
                raise ValueError(f"cam_head.mode: none, but methods.{name} needs a CAM for its prior")
        if self.data.min_class_images < max(self.run.shots) + 1:
            raise ValueError(
                f"data.min_class_images must be at least shots + 1 = {max(self.run.shots) + 1}, "
                f"got {self.data.min_class_images}"
            )
        return self

    def resolve(self, name: str) -> Method:
        """The options of method `name`: those of `method` with its own on top."""
        own = {key: value for key, value in self.methods[name].items() if key != "train"}
        try:
            return Method(**{**self.method.model_dump(), **own})
        except ValidationError as error:
            raise ValueError(f"methods.{name}: {describe(error)}") from None

    def training(self, name: str) -> Train:
        """How method `name` is trained: as `train` says, with what its own `train` says on top."""
        own = self.methods[name].get("train", {})
        if not isinstance(own, dict):
            raise ValueError(f"methods.{name}.train: must hold keys of train, got {own!r}")
        try:
            return Train(**{**self.train.model_dump(), **own})
        except ValidationError as error:
            raise ValueError(f"methods.{name}.train: {describe(error)}") from None


def describe(error: ValidationError) -> str:
    """One line a problem: the key, what is wrong, and the value that was given."""
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"]) or "params"
        if item["type"] == "extra_forbidden":
            lines.append(f"{key}: unknown key")
        elif item["type"] == "missing":
            lines.append(f"{key}: missing")
        else:
            message = item["msg"].removeprefix("Value error, ")
            given = "" if isinstance(item["input"], dict) else f" (got {item['input']!r})"
            lines.append(f"{key}: {message}{given if 'got' not in message else ''}")
    return "; ".join(lines)


def check(values: dict[str, Any], where: str = "params") -> Params:
    """Validated params, what the reading says in place of the word `reading`.

    Raises:
        ParamsError: naming each key that is unknown, missing or wrong.
    """
    try:
        return Params(**settle(values))
    except ValidationError as error:
        raise ParamsError(f"{where}: {describe(error)}") from None
    except ValueError as error:
        raise ParamsError(f"{where}: {error}") from None


def read(path: str | Path) -> dict[str, Any]:
    """The values of a params file, not checked.

    Raises:
        ParamsError: if the file is missing or is no YAML mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise ParamsError(f"{path}: no such params file")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path}: expected a mapping of sections")
    return values


def load(path: str | Path = "params.yaml") -> Params:
    """Read and check a params file."""
    return check(read(path), str(path))
