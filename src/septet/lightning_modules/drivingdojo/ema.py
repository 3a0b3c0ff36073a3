"""Exponential moving average over everything trainable."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class EMA:
    """Shadow copies of the trainable parameters of a module.

    Args:
        decay: of the average; early steps use (1 + n) / (10 + n) where that is smaller.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.shadow: dict[str, Tensor] = {}
        self._kept: dict[str, Tensor] | None = None

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take one step towards the current parameters."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, value in module.named_parameters():
            if not value.requires_grad:
                continue
            if name not in self.shadow:
                self.shadow[name] = value.detach().clone()
            self.shadow[name] = self.shadow[name].to(value.device).lerp(value.detach(), 1 - decay)

    @torch.no_grad()
    def swap_in(self, module: nn.Module) -> None:
        """Put the averages into the module, keeping its own parameters aside; nothing before the first update."""
        if self._kept is not None or not self.shadow:
            return
        parameters = dict(module.named_parameters())
        self._kept = {k: parameters[k].detach().clone() for k in self.shadow}
        for name, value in self.shadow.items():
            parameters[name].copy_(value)

    @torch.no_grad()
    def swap_out(self, module: nn.Module) -> None:
        """Undo :meth:`swap_in`."""
        if self._kept is None:
            return
        parameters = dict(module.named_parameters())
        for name, value in self._kept.items():
            parameters[name].copy_(value)
        self._kept = None

    def state_dict(self) -> dict[str, object]:
        """Plain types and tensors."""
        return {"steps": self.steps, "shadow": dict(self.shadow)}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Put back what :meth:`state_dict` returned."""
        shadow = state["shadow"]
        assert isinstance(shadow, dict)
        assert isinstance(state["steps"], int)
        self.steps, self.shadow = state["steps"], dict(shadow)
