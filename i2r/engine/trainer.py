"""What all that learns or scores shares: the device, stateless seeds, saved states, the training loop."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
import torch.utils.deterministic
from torch import Tensor, nn

from i2r.config.schema import Runtime, Schedule
from i2r.files import replacing
from i2r.pipeline.jobs import Job, JobError
from i2r.progress import Progress

LINES = 500  # of metrics.jsonl at most; longer trainings write means over several steps


def set_up(runtime: Runtime, threads: int) -> torch.device:
    """Set the CPU threads and determinism, and return the device.

    On the CPU the same job gives the same numbers bit by bit; on a GPU some kernels add in any order.

    Raises:
        JobError: if runtime.device names a GPU that is not there.
    """
    torch.set_num_threads(threads)
    name = runtime.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise JobError(f"runtime.device is {name!r}, but torch sees no GPU; use cpu or auto")
    device = torch.device(name)
    torch.use_deterministic_algorithms(device.type == "cpu", warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that fills every new tensor
    return device


def seed_of(*parts: object, seed: int = 0) -> int:
    """A seed that depends on nothing but `parts` (numbers and words): the same in every process.

    Args:
        seed: of params; its default 0 adds nothing to the parts.
    """
    text = json.dumps([*parts, seed] if seed else parts, default=str)
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def synchronise(device: torch.device) -> float:
    """Wait for the device and return the time in seconds, so that parts of a step can be told apart."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class SavedState:
    """State of a job to go on from after an interruption, in `folder`/state.pt, replaced atomically.

    `tick` saves every `every` seconds, and at once after SIGINT or SIGTERM, which then end the job as
    KeyboardInterrupt. After kill -9 the last saved state is there.
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
            except ValueError:  # not the main thread: signals go to another's handlers
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        if self.signal is not None:  # asked twice: don't wait for the end of the step
            raise KeyboardInterrupt
        self.signal = number

    def load(self) -> dict[str, Any] | None:
        """The last saved state (tensors on the CPU), or None.

        Raises:
            JobError: if the file cannot be read.
        """
        if not self.path.exists():
            return None
        try:
            return torch.load(self.path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise JobError(
                f"{self.path}: unreadable state; delete the file to start anew ({error})"
            ) from None

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the saved state. It may hold tensors, numbers, words, lists and dicts of these."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as temporary:
            torch.save(dict(state), temporary)
        self.saved = time.monotonic()

    def tick(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Save if it is time or a signal came; after a signal, stop.

        Raises:
            KeyboardInterrupt: after SIGINT or SIGTERM.
        """
        if self.signal is not None or time.monotonic() - self.saved >= self.every:
            self.save(state())
        if self.signal is not None:
            raise KeyboardInterrupt


def learning_rate(schedule: Schedule, step: int) -> float:
    """lr * (1 - step / steps) ** power, rising from 0 during the first share `warmup` of the steps."""
    rise = min(1.0, (step + 1) / (schedule.warmup * schedule.steps)) if schedule.warmup else 1.0
    return schedule.lr * rise * (1 - step / schedule.steps) ** schedule.power


Groups = Iterable[tuple[float, Iterable[nn.Parameter]]]  # (factor of the learning rate, parameters)


def build_optimiser(groups: Groups, schedule: Schedule) -> torch.optim.Optimizer:
    """The schedule's optimiser of those parameters that learn; its groups keep their `factor`."""
    learning = [
        {"params": [p for p in group if p.requires_grad], "factor": factor} for factor, group in groups
    ]
    common = {"lr": schedule.lr, "weight_decay": schedule.weight_decay}
    if schedule.optimiser == "adamw":
        return torch.optim.AdamW(learning, betas=(schedule.momentum, 0.999), fused=True, **common)
    return torch.optim.SGD(learning, momentum=schedule.momentum, **common)


class _Log:
    """metrics.jsonl: of each window of steps the means over it; at most LINES windows."""

    def __init__(self, path: Path, steps: int, state: Mapping[str, Any] | None):
        self.window, self.steps = max(1, math.ceil(steps / LINES)), steps
        self.rows: list[dict[str, float]] = list(state["rows"]) if state else []
        self.sums = defaultdict(float, state["sums"] if state else {})
        path.parent.mkdir(parents=True, exist_ok=True)
        # lines after the saved state, which an interrupted run may have left, are written again
        self.file = path.open("w")
        self.file.writelines(json.dumps(row) + "\n" for row in self.rows)
        self.file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def add(self, done: int, numbers: Mapping[str, float], rate: float) -> None:
        """Count a step; `done`: steps up to this one. Writes a line at the end of a window."""
        for name, value in numbers.items():
            self.sums[name] += value
        if done % self.window == 0 or done == self.steps:
            count = (done - 1) % self.window + 1
            means = {name: total / count for name, total in self.sums.items()}
            self.rows.append({"step": done, **means, "lr": rate})
            self.sums.clear()
            self.file.write(json.dumps(self.rows[-1]) + "\n")
            self.file.flush()


def fit(
    job: Job,
    model: nn.Module,
    schedule: Schedule,
    losses: Callable[[int], Mapping[str, Tensor | float]],
    *,
    label: str,
    groups: Groups | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Train `model` and write metrics.jsonl: the one training loop of the pipeline.

    Args:
        job: its `out` gets metrics.jsonl, its `state` what is needed to go on after an interruption.
        model: holds everything that changes in training, running statistics of norms included.
        losses: step number from 0 -> values of that step, all of them logged; `loss` is differentiated, names
            ending in `_s` are seconds. It must depend on the step number alone (and on torch's generator, which is
            seeded in each step), so that a resumed training equals an uninterrupted one.
        groups: of parameters with their learning rates; all parameters at factor 1 if missing.
        seed: of the step's params, beside the job's own.

    Returns:
        The means over the last logged window, and `seconds_per_step` over all steps.

    Raises:
        JobError: if a loss is not finite.
        KeyboardInterrupt: when stopped by SIGINT or SIGTERM, after saving the state.
    """
    optimiser = build_optimiser(groups or [(1.0, model.parameters())], schedule)
    done, spent = 0, 0.0
    with SavedState(job.state, job.runtime.save_every) as saved:
        if (state := saved.load()) is not None:
            model.load_state_dict(state["model"])
            optimiser.load_state_dict(state["optimiser"])
            done, spent = state["step"], state["spent"]

        def current() -> dict[str, Any]:
            learned = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
            return {**learned, "step": done, "rows": log.rows, "sums": dict(log.sums), "spent": spent}

        with (
            _Log(job.out / "metrics.jsonl", schedule.steps, state) as log,
            Progress(label, schedule.steps, "step", start=done) as progress,
        ):
            while done < schedule.steps:
                torch.manual_seed(
                    seed_of(job.step, job.args.get("fold"), job.args.get("seed"), done, seed=seed)
                )
                numbers = _step(model, optimiser, schedule, losses, done)
                _check(numbers["loss"], done, schedule, label)
                spent += numbers["seconds"]
                done += 1
                log.add(done, numbers, learning_rate(schedule, done - 1))
                progress.update(loss=numbers["loss"])
                if done < schedule.steps:
                    saved.tick(current)
            # finished: what follows the loop need not train again if it is interrupted
            saved.save(current())
            saved.tick(current)
    last = {name: value for name, value in log.rows[-1].items() if name not in ("step", "lr", "seconds")}
    return {**last, "seconds_per_step": spent / schedule.steps}


def _check(loss: float, step: int, schedule: Schedule, label: str) -> None:
    if not math.isfinite(loss):
        raise JobError(
            f"{label}: the loss is {loss} at step {step}, nothing can be learned from there; "
            f"a learning rate below the present {schedule.lr} may help"
        )


def _step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    schedule: Schedule,
    losses: Callable[[int], Mapping[str, Tensor | float]],
    step: int,
) -> dict[str, float]:
    """Do one step and return its values, with the seconds that it and its backward pass took."""
    device = next(model.parameters()).device
    began = synchronise(device)
    rate = learning_rate(schedule, step)
    for group in optimiser.param_groups:
        group["lr"] = rate * group["factor"]
    values = dict(losses(step))
    middle = synchronise(device)
    optimiser.zero_grad(set_to_none=True)
    values["loss"].backward()
    optimiser.step()
    ended = synchronise(device)
    values |= {"backward_s": ended - middle, "seconds": ended - began}
    return {name: float(torch.as_tensor(value).detach()) for name, value in values.items()}
