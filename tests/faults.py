"""Networks that end their process in every way that a job of a sweep can end, for ``arch.target``."""

import os
import signal
import sys
import time

import torch
from torch import Tensor


class Sound(torch.nn.Module):
    """Trains."""

    def __init__(self, num_classes: int, width: int = 4) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(3, num_classes, width - 1, padding=(width - 1) // 2)

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.fault()
        return self.layer(images)

    def fault(self) -> None:
        pass


class Raises(Sound):
    def fault(self) -> None:
        raise ValueError("a planted fault")


class Killed(Sound):
    def fault(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Exits(Sound):
    def fault(self) -> None:
        print("about to leave")
        sys.exit(3)


class Hangs(Sound):
    def fault(self) -> None:
        print("hanging")
        print("hanging")
        time.sleep(600)


class Slow(Sound):
    """Trains, but lets the one who interrupts it catch it."""

    def fault(self) -> None:
        time.sleep(0.4)
