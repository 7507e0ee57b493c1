"""Shared by trainings and evaluations: device, stateless seeds, saved states, and the training loop."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import torch.utils.deterministic
from torch import Tensor, nn

from i2r.config.experiment import Runtime
from i2r.config.training import Schedule
from i2r.engine.processes import leave
from i2r.engine.validation import Validation
from i2r.files import replacing
from i2r.nets.device import open_device
from i2r.nets.whole_batch import add_up_gradients, count, norm_whole_batches, rank
from i2r.pipeline.jobs import Job, JobError
from i2r.pipeline.work import SCHEDULED
from i2r.progress import Progress

# Maximal number of lines of metrics.jsonl, besides one for each validation; longer trainings write means over steps
LINES = 500


def set_up(runtime: Runtime, threads: int) -> torch.device:
    """Set the number of CPU threads and determinism, and return the device.

    On a CPU the same job gives bitwise equal numbers; on a GPU some kernels sum in varying order.

    Raises:
        InputError: runtime.device is a GPU that is not there.
    """
    torch.set_num_threads(threads)
    device = open_device(runtime.device, "runtime.device")
    # torch.use_deterministic_algorithms does the same for code that is not compiled, but imports the compiler: a second
    torch.set_deterministic_debug_mode("warn" if device.type == "cpu" else "default")
    torch.utils.deterministic.fill_uninitialized_memory = False  # it only serves debugging, and costs time
    return device


def seed_of(*parts: object, seed: int = 0) -> int:
    """A seed that depends only on `parts` (numbers and strings) and `seed`, and is the same in every process.

    Args:
        seed: from params; 0, the default, does not change the seed made from the parts.
    """
    text = json.dumps([*parts, seed] if seed else parts, default=str)
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


Moment = float | torch.cuda.Event
Value = Tensor | float | tuple[Moment, Moment]  # of a step; two moments are a time


def moment(device: torch.device) -> Moment:
    """Beginning or end of a part of a step. On a GPU: when it has done the work that it was given so far."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def synchronise(device: torch.device) -> float:
    """Wait for the device and return the time in seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class SavedState:
    """State from which an interrupted job continues, in `folder`/state.pt, replaced atomically.

    `tick` saves every `every` seconds, and at once after SIGINT or SIGTERM, which then end the job with a
    KeyboardInterrupt. After kill -9 the last saved state remains.
    """

    def __init__(self, folder: Path, every: float):
        self.path, self.every = folder / "state.pt", every
        self.saved = time.monotonic()
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._previous[number] = signal.signal(number, self._note)
            except ValueError:  # only the main thread can handle signals
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        if self.signal is not None:  # the second signal does not wait for the end of the step
            raise KeyboardInterrupt
        self.signal = number

    def load(self) -> dict[str, Any] | None:
        """The last saved state (tensors on the CPU), or None.

        Raises:
            JobError: the file cannot be read.
        """
        if not self.path.exists():
            return None
        try:
            return torch.load(self.path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise JobError(
                f"{self.path}: unreadable state; delete the file to start again from the beginning ({error})"
            ) from None

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the saved state: tensors, numbers, strings, and lists and dicts of these."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as temporary:
            torch.save(dict(state), temporary)
        self.saved = time.monotonic()

    def tick(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Save if it is time, or save and stop after a signal.

        Raises:
            KeyboardInterrupt: after SIGINT or SIGTERM.
        """
        if self.signal is not None or time.monotonic() - self.saved >= self.every:
            self.save(state())
        if self.signal is not None:
            raise KeyboardInterrupt


def learning_rate(schedule: Schedule, step: int) -> float:
    """lr * (1 - step / steps) ** power, with a linear rise from 0 during the share `warmup` of the steps."""
    rise = min(1.0, (step + 1) / (schedule.warmup * schedule.steps)) if schedule.warmup else 1.0
    return schedule.lr * rise * (1 - step / schedule.steps) ** schedule.power


Groups = Iterable[tuple[float, Iterable[nn.Parameter]]]  # (factor of the learning rate, parameters)


def build_optimiser(groups: Groups, schedule: Schedule) -> torch.optim.Optimizer:
    """The schedule's optimiser for the parameters with requires_grad; its groups keep their `factor`."""
    learning = [
        {"params": [p for p in group if p.requires_grad], "factor": factor} for factor, group in groups
    ]
    common = {"lr": schedule.lr, "weight_decay": schedule.weight_decay}
    if schedule.optimiser == "adamw":
        return torch.optim.AdamW(learning, betas=(schedule.momentum, 0.999), fused=True, **common)
    return torch.optim.SGD(learning, momentum=schedule.momentum, **common)


class _Log:
    """metrics.jsonl: means over windows of steps. A validation ends a window."""

    def __init__(self, path: Path, steps: int, state: Mapping[str, Any] | None):
        self.window, self.steps = max(1, math.ceil(steps / LINES)), steps
        self.rows: list[dict[str, float]] = list(state["rows"]) if state else []
        # name -> sum and number of the values since the last line; some are measured in some steps only
        self.sums: dict[str, list[float]] = dict(state.get("sums_and_counts", {})) if state else {}
        path.parent.mkdir(parents=True, exist_ok=True)
        # an interrupted run may have left lines that are newer than the saved state
        self.file = path.open("w", encoding="utf-8")
        self.file.writelines(json.dumps(row) + "\n" for row in self.rows)
        self.file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def add(self, done: int, numbers: Mapping[str, float], rate: float, score: float | None = None) -> None:
        """Add a step, and write a line at the end of a window.

        Args:
            done: number of steps, including this one.
            score: of a validation after this step.
        """
        for name, value in numbers.items():
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = [total + value, count + 1]
        if done % self.window == 0 or done == self.steps or score is not None:
            means = {name: total / count for name, (total, count) in self.sums.items()}
            scored = {} if score is None else {"validation_miou": score}
            self.rows.append({"step": done, **means, **scored, "lr": rate})
            self.sums.clear()
            self.file.write(json.dumps(self.rows[-1]) + "\n")
            self.file.flush()

    def state(self) -> dict[str, Any]:
        """What a later log of the same training begins with."""
        return {"rows": self.rows, "sums_and_counts": dict(self.sums)}


@dataclass
class _Training:
    """What a training changes, and how far it is.

    Attributes:
        done: number of steps.
        spent: their seconds.
    """

    job: Job
    model: nn.Module
    optimiser: torch.optim.Optimizer
    schedule: Schedule
    losses: Callable[[int], Mapping[str, Value]]
    label: str
    seed: int
    validation: Validation | None
    done: int = 0
    spent: float = 0.0

    @property
    def over(self) -> bool:
        return self.done == self.schedule.steps or bool(self.validation and self.validation.over)

    def advance(self) -> tuple[dict[str, float], float | None]:
        """Values of the next step, and the score of the validation after it, if there is one.

        Raises:
            JobError: the loss is not finite.
        """
        job, schedule = self.job, self.schedule
        named = (job.step, job.args.get("fold"), job.args.get("seed"), self.done)
        # each process has a dropout of its own
        torch.manual_seed(seed_of(*named, *([rank()] if rank() else []), seed=self.seed))
        numbers = _step(self.model, self.optimiser, schedule, self.losses, self.done)
        _check(numbers["loss"], self.done, self.label, f"{SCHEDULED[job.step]}.lr below {schedule.lr}")
        self.spent += numbers["seconds"]
        self.done += 1
        return numbers, self.validation.after(self.done, self.model) if self.validation else None

    def state(self) -> dict[str, Any]:
        """What `restore` needs."""
        learned = {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()}
        learned |= {"validation": self.validation.state()} if self.validation else {}
        return {**learned, "step": self.done, "spent": self.spent}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.validation:
            self.validation.load_state(state["validation"])
        self.done, self.spent = state["step"], state["spent"]


def fit(
    job: Job,
    model: nn.Module,
    schedule: Schedule,
    losses: Callable[[int], Mapping[str, Value]],
    *,
    label: str,
    groups: Groups | None = None,
    seed: int = 0,
    validation: Validation | None = None,
    after: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Train `model` and write metrics.jsonl; the training loop of all steps.

    Args:
        job: metrics.jsonl is written to its `out`, the saved state to its `state`.
        model: holds everything that changes in training, including running statistics of norms.
        losses: step number from 0 -> values of the step, which are logged; `loss` is differentiated, unless that has
            been done; names ending in `_s` are seconds. It must depend only on the step number (and on torch's
            generator, which is seeded in each step), so that a resumed training equals an uninterrupted one.
        groups: of parameters with their learning rates; None: all parameters with factor 1.
        seed: from the step's params, in addition to the job's own seed.
        validation: scores the model during the training, and can end it early; its mIoU is logged as
            `validation_miou`.
        after: called after each step with the number of steps, in the first process. A killed training repeats steps,
            so what it writes must depend on the model alone.

    Returns:
        The means over the last logged window, and `seconds_per_step` over all steps.

    Raises:
        JobError: a loss is not finite.
        KeyboardInterrupt: the training was stopped by SIGINT or SIGTERM; its state has been saved.
        SystemExit: in another process than the first of those that share the training, at its end.
    """
    optimiser = build_optimiser(groups or [(1.0, model.parameters())], schedule)
    if count() > 1:
        norm_whole_batches(model)
    training = _Training(job, model, optimiser, schedule, losses, label, seed, validation)
    saved = SavedState(job.state, job.runtime.save_every)
    if (state := saved.load()) is not None:
        training.restore(state)
    if rank():  # the first process does the rest
        while not training.over:
            training.advance()
        leave()
    with (
        saved,
        _Log(job.out / "metrics.jsonl", schedule.steps, state) as log,
        Progress(label, schedule.steps, "step", start=training.done) as progress,
    ):

        def current() -> dict[str, Any]:
            return training.state() | log.state()

        while not training.over:
            numbers, score = training.advance()
            if after:
                after(training.done)
            log.add(training.done, numbers, learning_rate(schedule, training.done - 1), score)
            progress.update(loss=numbers["loss"])
            if training.done < schedule.steps:
                saved.tick(current)
        # so that an interruption after the loop does not repeat the training
        saved.save(current())
        saved.tick(current)
    leave()
    last = {name: value for name, value in log.rows[-1].items() if name not in ("step", "lr", "seconds")}
    return {**last, "seconds_per_step": training.spent / training.done}


def _check(loss: float, step: int, label: str, remedy: str) -> None:
    if not math.isfinite(loss):
        raise JobError(
            f"{label}: the loss is {loss} at step {step}, so training cannot continue; {remedy} may help"
        )


def _step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    schedule: Schedule,
    losses: Callable[[int], Mapping[str, Value]],
    step: int,
) -> dict[str, float]:
    """Run one step and return its values, with the seconds of the step and of its backward pass.

    The device is waited for once, at the end, so that a GPU always has work.
    """
    device = next(model.parameters()).device
    began = time.perf_counter()
    rate = learning_rate(schedule, step)
    for group in optimiser.param_groups:
        group["lr"] = rate * group["factor"]
    optimiser.zero_grad(set_to_none=True)
    values = dict(losses(step))
    middle = moment(device)
    if values["loss"].requires_grad:
        values["loss"].backward()
    add_up_gradients(model.parameters())
    optimiser.step()
    values["backward_s"] = middle, moment(device)
    ended = synchronise(device)
    return _numbers(values) | {"seconds": ended - began}


def _numbers(values: Mapping[str, Value]) -> dict[str, float]:
    """The values of a step as numbers; tensors are copied from the device together."""
    tensors = {name: value.detach() for name, value in values.items() if isinstance(value, Tensor)}
    copied = torch.stack([value.double() for value in tensors.values()]).tolist()
    numbers = dict(zip(tensors, copied, strict=True))
    for name, value in values.items():
        if isinstance(value, tuple):
            began, ended = value
            numbers[name] = (
                began.elapsed_time(ended) / 1000 if isinstance(began, torch.cuda.Event) else ended - began
            )
        elif name not in numbers:
            numbers[name] = float(value)
    return {name: numbers[name] for name in values}
