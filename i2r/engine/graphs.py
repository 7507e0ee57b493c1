"""A training step as a CUDA graph: recorded once, then started as a whole instead of kernel by kernel.

A step of a small network is some 2000 short kernels, which a GPU can finish faster than a processor can start them.
The kernels are the same, so no number changes. Dropout draws from torch's generator as it stands before each replay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from i2r.pipeline.jobs import JobError

WARM = 3  # steps before the recording, in which torch and cuDNN choose kernels and take memory


class Recorded:
    """Values and gradients of a step.

    Args:
        compute: tensors -> values of the step, among them `loss`. It must launch the same kernels in each call: no
            decision may depend on a value on the GPU, and nothing may be copied from or to the CPU.
        parameters: to which the gradients are given.
        label: of the job, for messages.
    """

    def __init__(
        self,
        compute: Callable[..., Mapping[str, Tensor]],
        parameters: Iterable[nn.Parameter],
        label: str,
    ) -> None:
        self.compute, self.label = compute, label
        self.parameters = [p for p in parameters if p.requires_grad]
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: list[Tensor] = []
        self.values: dict[str, Tensor] = {}
        self.gradients: list[Tensor | None] = []

    def __call__(self, *tensors: Tensor) -> dict[str, Tensor]:
        """The values, detached, which are valid until the next call; the parameters have their gradients.

        Raises:
            JobError: the step cannot be recorded.
        """
        self.calls += 1
        if self.calls <= WARM:
            return self._warm(tensors)
        if self.graph is None:
            self._record(tensors)
        for kept, given in zip(self.inputs, tensors, strict=True):
            kept.copy_(given, non_blocking=True)
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        self.graph.replay()
        return self.values

    def _run(self, tensors: Iterable[Tensor]) -> dict[str, Tensor]:
        for parameter in self.parameters:
            parameter.grad = None
        values = self.compute(*tensors)
        values["loss"].backward()
        return {name: value.detach() for name, value in values.items()}

    def _warm(self, tensors: Iterable[Tensor]) -> dict[str, Tensor]:
        """A step that is not recorded, on a stream of its own, as torch demands."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            values = self._run(tensors)
        torch.cuda.current_stream().wait_stream(stream)
        return values

    def _record(self, tensors: Iterable[Tensor]) -> None:
        self.inputs = [tensor.clone() for tensor in tensors]
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        try:
            # "thread_local": the thread that pins loaded images may go on
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self.values = self._run(self.inputs)
        except RuntimeError as error:
            raise JobError(
                f"{self.label}: this network's step cannot be recorded as a CUDA graph; set runtime.cuda_graphs to "
                f"false ({error})"
            ) from error
        self.gradients = [parameter.grad for parameter in self.parameters]
        self.graph = graph
