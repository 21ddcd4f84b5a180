"""Batch norm over the batch of all ranks, on CPU and GPU.

torch's SyncBatchNorm refuses CPU tensors. Without statistics over ranks a network can tell which
samples share its process (how MoCo's positives leak), and a run on two devices is not the run on
one.

B batch, C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d as TimmBatchNormAct2d
from torch import Tensor, nn

from medssl.objectives._parts.distributed import total
from medssl.objectives._parts.precision import upcast


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm for (B, C) or (B, C, *space) with the statistics of all ranks together.

    Output and gradients are those of one process with the whole batch (see
    :mod:`.distributed`); ranks may differ in size. Two departures from torch:

    - A batch with one value per channel has no statistics: it is normalised with the running
      averages, as in evaluation (torch raises).
    - Running averages move only where gradients are enabled, so that teachers, and validation in
      training mode, leave the state alone.

    Source: Ioffe and Szegedy 2015; weights and buffers as in :class:`torch.nn.BatchNorm1d`.

    >>> x = torch.tensor([[1.0], [3.0]])
    >>> BatchNorm(1, eps=0.0)(x).flatten().tolist()
    [-1.0, 1.0]
    """

    momentum: float

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self._with_running_averages(x)
        axes = [0, *range(2, x.ndim)]
        shape = (1, -1, *[1] * (x.ndim - 2))
        wide = upcast(x)
        count = total(wide.new_tensor(x.numel() / x.shape[1]))
        if count <= 1:
            return self._with_running_averages(x)
        mean_C = total(wide.sum(axes)) / count
        centred = wide - mean_C.view(shape)
        var_C = total(centred.square().sum(axes)) / count
        if torch.is_grad_enabled():
            self._move_averages(mean_C.detach(), var_C.detach() * count / (count - 1))
        out = centred * (var_C + self.eps).rsqrt().view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(x.dtype)

    def _with_running_averages(self, x: Tensor) -> Tensor:
        mean, var = self.running_mean, self.running_var
        return F.batch_norm(x, mean, var, self.weight, self.bias, eps=self.eps)

    def _move_averages(self, mean_C: Tensor, var_C: Tensor) -> None:
        for average, value in ((self.running_mean, mean_C), (self.running_var, var_C)):
            assert average is not None  # this class always tracks
            average.lerp_(value.to(average.dtype), self.momentum)
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - torch's name
        """Any number of axes."""


class BatchNormAct(BatchNorm):
    """The same for timm's norm with a built-in activation."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.drop(super().forward(x)))
        return out


def across_ranks(module: nn.Module) -> nn.Module:
    """Replace the batch norms of torch and timm inside ``module``; weights and names stay.

    For networks with batch norm (``timm/resnet50``) that train on several devices.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and type(child) in _REPLACED:
            setattr(module, name, _like(child))
        else:
            across_ranks(child)
    return module


_REPLACED: dict[type, type[BatchNorm]] = {
    nn.BatchNorm1d: BatchNorm,
    nn.BatchNorm2d: BatchNorm,
    nn.BatchNorm3d: BatchNorm,
    TimmBatchNormAct2d: BatchNormAct,
}


def _like(norm: nn.modules.batchnorm._BatchNorm) -> BatchNorm:
    momentum = 0.1 if norm.momentum is None else norm.momentum
    ours = _REPLACED[type(norm)](norm.num_features, norm.eps, momentum, norm.affine)
    if isinstance(ours, BatchNormAct):
        ours.drop, ours.act = norm.get_submodule("drop"), norm.get_submodule("act")
    ours.load_state_dict(norm.state_dict())
    ours.to(next(norm.buffers()).device).train(norm.training)
    for name, weight in norm.named_parameters():
        ours.get_parameter(name).requires_grad_(weight.requires_grad)
    return ours
