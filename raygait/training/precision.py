"""The number format that a step computes in: float32, or half of it where the hardware has it.

Weights, gradients and the optimiser's state are float32 in all of them, and so are losses and
distances; autocast halves what the network computes in between.

    fp32   On the CPU: in half precision the same step is slower there, not faster.
    bf16   On a GPU that has it. It reaches as far as float32 with fewer digits.
    fp16   On an older GPU. Small gradients would vanish in it, so the loss is multiplied by a
           scale that is lowered, and the step left out, whenever a gradient is too large for it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from raygait.training.distributed import gather

logger = logging.getLogger(__name__)

PrecisionName = Literal["fp32", "fp16", "bf16"]
# From what every device can do to what only some can.
_NAMES: tuple[PrecisionName, ...] = get_args(PrecisionName)
_TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Precision:
    """How the steps of a run compute; for `fp16` also the scale of its losses.

    Args:
        name: The format.
        device: Where the network is. The CPU can do all three.
    """

    def __init__(self, name: PrecisionName = "fp32", device: torch.device | str = "cpu") -> None:
        self.name = name
        self._device_type = torch.device(device).type
        self._scaler = torch.amp.GradScaler(self._device_type) if name == "fp16" else None

    def autocast(self) -> AbstractContextManager[Any]:
        """What a forward pass runs in; a context for each pass, as it keeps copies of weights."""
        return torch.autocast(self._device_type, _TYPES.get(self.name), enabled=self.name in _TYPES)

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss to call `backward` on."""
        return loss if self._scaler is None else self._scaler.scale(loss)

    def unscale(self, optimiser: torch.optim.Optimizer) -> None:
        """Make the gradients those of the loss itself; once a step."""
        if self._scaler is not None:
            self._scaler.unscale_(optimiser)

    def step(self, optimiser: torch.optim.Optimizer) -> None:
        """Step the optimiser; in `fp16` only if all gradients are finite."""
        if self._scaler is None:
            optimiser.step()
        else:
            self._scaler.step(optimiser)
            self._scaler.update()

    @property
    def loss_scale(self) -> float | None:
        """What losses are multiplied by; `None` where they are not."""
        return None if self._scaler is None else float(self._scaler.get_scale())

    @property
    def can_overflow(self) -> bool:
        """Whether a gradient that is not finite may be due to the scale alone."""
        return self.loss_scale is not None and self.loss_scale > 1

    def state_dict(self) -> dict[str, Any]:
        """What a run needs to go on; plain values."""
        return {
            "name": self.name,
            "scaler": {} if self._scaler is None else self._scaler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what a run left, if anything; another format than its own is said."""
        if not state:
            return
        if state["name"] != self.name:
            logger.warning("the run has computed in %s so far, now in %s", state["name"], self.name)
        elif self._scaler is not None and state["scaler"]:
            self._scaler.load_state_dict(dict(state["scaler"]))


def choose_precision(
    wanted: Literal["auto"] | PrecisionName, device: torch.device | str
) -> Precision:
    """The precision that a recipe asks for; `auto` is the best that all workers' hardware has.

    Every worker of a run calls it: one with another format than the others would add gradients of
    another scale to theirs.

    Args:
        wanted: A format, taken without asking the hardware, or `auto`.
        device: Where this worker's network is.
    """
    device = torch.device(device)
    if wanted != "auto":
        return Precision(wanted, device)
    own: PrecisionName = "fp32"
    if device.type == "cuda":
        # Older GPUs emulate it, slower than they compute float32.
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        own = "bf16" if has_bf16 else "fp16"
    places = gather(torch.tensor([_NAMES.index(own)], device=device))
    return Precision(_NAMES[int(places.min())], device)
