"""Validation during a training, and the weights with the best score."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

from torch import nn

from i2r.nets.whole_batch import of_first


class Validation:
    """Scores a model after some steps of its training, and keeps its best state.

    All of it is part of the training's saved state. The score must not depend on random numbers.

    Args:
        steps: numbers of steps after which the model is scored.
        score: scores the model, which is in eval mode meanwhile; None counts as lower than any number.
        patience: number of validations without a better score after which the training ends; 0: it does not end early.

    Attributes:
        rows: {"step", "score"} of each validation so far.
        best: the model's state at the validation with the best score, the first of equal ones; None before the first.
        best_step: the number of steps after which it was reached.
    """

    def __init__(self, steps: Collection[int], score: Callable[[], float | None], patience: int = 0):
        self.steps, self.score, self.patience = frozenset(steps), score, patience
        self.rows: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self.best_step = 0

    def after(self, step: int, model: nn.Module) -> float | None:
        """Score the model if it is due after this step, and return the score."""
        if step not in self.steps:
            return None
        modes = [(part, part.training) for part in model.modules()]
        model.eval()
        score = of_first(self.score)
        for part, training in modes:
            part.training = training
        known = [row["score"] for row in self.rows if row["score"] is not None]
        if self.best is None or (score is not None and score > max(known, default=float("-inf"))):
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
            self.best_step = step
        self.rows.append({"step": step, "score": score})
        return score

    @property
    def over(self) -> bool:
        """Whether the training ends, because the last `patience` validations were not better."""
        later = sum(row["step"] > self.best_step for row in self.rows)
        return bool(self.patience) and later >= self.patience

    def summary(self) -> dict[str, Any]:
        """For scores.json: every validation, and the number of steps of the best."""
        return {"best_step": self.best_step, "validations": self.rows}

    def state(self) -> dict[str, Any]:
        """For the training's saved state."""
        return {"rows": self.rows, "best": self.best, "best_step": self.best_step}

    def load_state(self, state: dict[str, Any]) -> None:
        self.rows, self.best, self.best_step = list(state["rows"]), state["best"], state["best_step"]


def kept_files(model: nn.Module, validation: Validation | None, checkpoint: str) -> Iterator[str]:
    """Load the weights that a training keeps into its model, one after the other, and yield the name of their file.

    Those that `checkpoint` (best or last) chooses come last and are weights.safetensors; with a validation the others
    come before, as last.safetensors or best.safetensors.
    """
    if validation is None:
        yield "weights.safetensors"
        return
    last = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    states = {"last": last, "best": validation.best}
    for name in sorted(states, key=lambda name: name == checkpoint):
        model.load_state_dict(states[name])
        yield "weights.safetensors" if name == checkpoint else f"{name}.safetensors"
