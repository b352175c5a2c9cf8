"""Several heads of one kind as one, so that they are trained by the same few large kernels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.head.data import Inputs
from pipeline.head.models import Head

# Numbers in the batch of one run up to which a CPU trains several runs faster together than one after the other. With
# `vcs`, batches of 128 x 8 x 512 numbers took 1.15 times as long (fifteen of them no longer fit into the cache), those
# of 128 x 8 x 64 took 0.86, and those of 32 x 8 x 64 took 0.47.
CPU_NUMBERS = 100_000


def together_pays(inputs: Inputs, batch_size: int) -> bool:
    """Whether runs on ``inputs`` are best trained in one program: on a GPU always, on a CPU where batches are small.

    Heads that read skeletons cannot be: which persons they look at differs from run to run, and so do shapes.
    """
    if "skeleton" in inputs.tensors:
        return False
    video = sum(tensor[0, 0].numel() for tensor in inputs.tensors.values()) * inputs.num_frames // inputs.stored_frames
    return inputs.device.type == "cuda" or batch_size * video <= CPU_NUMBERS


class Stack:
    """Parameters and buffers of R heads, each with a run axis in front: [R, ...].

    The heads themselves stay as they are until ``give_back``. Matrix products run in ``dtype``.
    """

    def __init__(self, heads: Sequence[Head], dtype: torch.dtype = torch.float32) -> None:
        self._heads, self._dtype = heads, dtype
        # One of them with the parameters of all: what a head does to its parameters one by one holds for the stack.
        self._all = copy.deepcopy(heads[0])
        for name, parameter in self._all.named_parameters():
            parameter.data = torch.stack([head.get_parameter(name).detach() for head in heads])
        self._buffers = {
            name: torch.stack([head.get_buffer(name) for head in heads]) for name, _ in self._all.named_buffers()
        }
        self.parameters: list[Tensor] = list(self._all.parameters())

    def losses(
        self,
        runs: Sequence[int],
        batch: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        targets: Tensor,
        loss: Callable[[tuple[Tensor, ...], Tensor], Tensor],
    ) -> Tensor:
        """Loss of each of some runs, float32 [R']; batch, masks and targets [R', B, ...]."""
        parameters: dict[str, Tensor] = dict(self._all.named_parameters())
        buffers = self._buffers
        if len(runs) < len(self._heads):
            parameters, buffers = ({n: t[list(runs)] for n, t in tensors.items()} for tensors in (parameters, buffers))

        def one(
            parameters: Mapping[str, Tensor],
            buffers: Mapping[str, Tensor],
            batch: Mapping[str, Tensor],
            masks: Mapping[str, Tensor],
            targets: Tensor,
        ) -> Tensor:
            logits = functional_call(self._all, (dict(parameters), dict(buffers)), (batch,), dict(masks))
            return loss(tuple(x.float() for x in logits), targets)

        # The fused attention kernels of a CPU run once a head, take ten times as long backwards in bf16, and gain
        # nothing over so few steps.
        narrow = torch.autocast(targets.device.type, self._dtype, enabled=self._dtype != torch.float32)
        with narrow, sdpa_kernel(SDPBackend.MATH):
            if len(runs) > 1:
                return vmap(one)(parameters, buffers, batch, masks, targets)
            first = [
                {name: tensor[0] for name, tensor in tensors.items()} for tensors in (parameters, buffers, batch, masks)
            ]
            return one(first[0], first[1], first[2], first[3], targets[0]).unsqueeze(0)

    @torch.no_grad()
    def move(self, start: Sequence[Tensor], end: Sequence[Tensor], shares: Sequence[float]) -> None:
        """Move ``start`` towards ``end`` [R, ...] in place, each run by its share of the way."""
        if len(set(shares)) == 1:
            torch._foreach_lerp_(list(start), list(end), shares[0])
            return
        by_run = torch.tensor(shares, device=start[0].device)
        for tensor, goal in zip(start, end, strict=True):
            tensor.lerp_(goal, by_run.view(-1, *[1] * (tensor.ndim - 1)))

    def constrain(self) -> None:
        self._all.constrain()

    @torch.no_grad()
    def give_back(self, parameters: Sequence[Tensor]) -> None:
        """Put the parameters [R, ...] into the heads that the stack was made of."""
        for run, head in enumerate(self._heads):
            for own, stacked in zip(head.parameters(), parameters, strict=True):
                own.copy_(stacked[run])
