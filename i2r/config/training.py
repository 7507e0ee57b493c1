"""What every training has: the schedule of its optimiser, and the augmentation of its images."""

from __future__ import annotations

import itertools
import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator

from i2r.config.base import Count, NotNegative, Positive, Rate, Section, Share, must_be, said


class Schedule(Section):
    """SGD with momentum or AdamW, warm-up, and polynomial decay by step."""

    optimiser: Literal["sgd", "adamw"] = Field("sgd", description="sgd or adamw")
    warmup: Share = Field(0.0, description="share of the steps during which the learning rate rises")
    steps: int | str = Field(
        description="training steps, or passes over the training images such as `300 epochs`"
    )
    batch: Positive = Field(description="images or episodes per step")
    lr: Rate = Field(description="learning rate")
    momentum: Share = Field(0.9, description="momentum; for adamw the first beta")
    weight_decay: NotNegative = Field(1e-4, description="weight decay")
    power: NotNegative = Field(0.9, description="lr * (1 - step / steps) ** power")

    @field_validator("steps", mode="plain")
    @classmethod
    def _steps(cls, steps: Any) -> int | str:
        if not (found := re.fullmatch(r"([1-9]\d*)( epochs)?", str(steps))):
            raise ValueError("must be a number of steps or passes over the images, such as 300 epochs")
        return steps if found[2] else int(steps)

    def over(self, images: int) -> Self:
        """The same schedule with `steps` as a number; epochs are passes over this many images."""
        if isinstance(self.steps, int):
            return self
        steps = int(self.steps.split()[0]) * images // self.batch
        return self.model_copy(update={"steps": max(1, steps)})


def validation_steps(schedule: Schedule, every: float, images: int) -> tuple[int, ...]:
    """Numbers of steps after which a training is validated, every `every` epochs and after the last step.

    Args:
        schedule: with `steps` as a number, see `over`.
        every: 0: only after the last step.
        images: number of training images; an epoch is one pass over them.
    """
    if not every:
        return (schedule.steps,)
    ends = (int(count * every * images // schedule.batch) for count in itertools.count(1))
    early = itertools.takewhile(lambda end: end < schedule.steps, ends)
    return (*dict.fromkeys(end for end in early if end), schedule.steps)


class Augment(Section):
    """Random augmentation of a training image (docs/method.md 8.1)."""

    views: Count = Field(
        0, description="number of fixed views of each image, whose features are kept; 0: a new view each time"
    )
    scale: Annotated[tuple[Rate, Rate], must_be("two numbers above 0")] = said("range of the random scale")
    fit: bool = Field(
        False,
        description="scale relative to the longer side at S, as at test (true), or to the image (false)",
    )
    rotate: NotNegative = Field(10.0, description="largest rotation, degrees")
    rotate_p: Share = Field(0.5, description="probability of a rotation")
    blur_p: Share = Field(0.5, description="probability of a blur")
    flip_p: Share = Field(0.5, description="probability of a horizontal flip")

    @field_validator("scale")
    @classmethod
    def _scale(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if scale[0] > scale[1]:
            raise ValueError(f"must be a range, the smaller number first, got {list(scale)}")
        return scale


class BaseAugment(Augment):
    """Augmentation of the base learner's images; used only if the backbone is trained as well."""

    rotate_p: Share = said("probability of a rotation")
    blur_p: Share = said("probability of a blur")
    flip_p: Share = said("probability of a horizontal flip")
