"""Muon, whose work is shared out among the processes that train together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn

from mimo_codec.common.bfloat16 import bfloat16_is_slow
from mimo_codec.common.processes import num_processes, process_rank


class SharedMuon(torch.optim.Muon):
    """Muon whose work is shared out: every process updates some of the matrices and sends them to the others.

    Orthogonalising a matrix costs the same however small the batch is, so when all processes did it for all matrices
    it could take a quarter of a step on CPUs. The gradients must be the same in all processes, as DDP leaves them.
    """

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all matrices; every process must call it."""
        if num_processes() == 1:
            return self._update(closure)
        gradients = [p.grad for p in self._matrices]
        for parameter, owner in zip(self._matrices, self._owners(), strict=True):
            if owner != process_rank():
                parameter.grad = None  # Muon does not change it
        loss = self._update(closure)
        for parameter, gradient in zip(self._matrices, gradients, strict=True):
            parameter.grad = gradient
        self._send([p.data for p in self._matrices])
        return loss

    @torch.no_grad()
    def _update(self, closure: Callable[[], float] | None) -> float | None:
        """Do what torch.optim.Muon does, but in float32 where bfloat16 is slow."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update_one(parameter, parameter.grad, group)
        return loss

    def _update_one(self, parameter: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        momentum, rate = group["momentum"], group["lr"]
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        average = state["momentum_buffer"]
        average.lerp_(gradient, 1 - momentum)
        update = gradient.lerp(average, momentum) if group["nesterov"] else average
        dtype = torch.float32 if bfloat16_is_slow(parameter.device) else torch.bfloat16
        update = orthogonalize(update.to(dtype, copy=True), group["ns_coefficients"], group["ns_steps"], group["eps"])
        rows, columns = parameter.shape
        parameter.mul_(1 - rate * group["weight_decay"])
        parameter.add_(update, alpha=-rate * max(1.0, rows / columns) ** 0.5)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all matrices in every process; every process must call it."""
        if num_processes() > 1 and self._has_stepped():
            for parameter in self._matrices:
                self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
            self._send([self.state[p]["momentum_buffer"] for p in self._matrices])
        return super().state_dict()

    @property
    def _matrices(self) -> list[nn.Parameter]:
        return [p for group in self.param_groups for p in group["params"]]

    def _owners(self) -> list[int]:
        """List which process updates each matrix: the largest first, each to the process with the least work so far."""
        work, owners = [0] * num_processes(), {}
        for number, matrix in sorted(enumerate(self._matrices), key=lambda item: -item[1].numel() * min(item[1].shape)):
            owners[number] = work.index(min(work))
            work[owners[number]] += matrix.numel() * min(matrix.shape)
        return [owners[number] for number in range(len(owners))]

    def _has_stepped(self) -> bool:
        """Whether any process has updated a matrix; some processes may have none to update."""
        stepped = torch.tensor(int(bool(self.state)), device=self._matrices[0].device)
        distributed.all_reduce(stepped, distributed.ReduceOp.MAX)
        return bool(stepped)

    def _send(self, tensors: Sequence[Tensor]) -> None:
        """Send the tensors, one for each matrix, from the process that updates it to all others, in place."""
        owners = self._owners()
        for rank in range(num_processes()):
            sent = [tensor for tensor, owner in zip(tensors, owners, strict=True) if owner == rank]
            if sent:
                flat = torch.cat([tensor.flatten() for tensor in sent])
                distributed.broadcast(flat, rank)
                for tensor, values in zip(sent, torch.split(flat, [tensor.numel() for tensor in sent]), strict=True):
                    tensor.copy_(values.view_as(tensor))


def orthogonalize(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Bring the singular values of a matrix [A, B] near to 1 by Newton-Schulz iterations, in its dtype.

    The matrix is overwritten. Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks".
    """
    a, b, c = coefficients
    x = matrix.T if matrix.size(0) > matrix.size(1) else matrix
    x.div_(x.norm().clamp(min=eps))
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if matrix.size(0) > matrix.size(1) else x
