"""``train.py`` with FSDP on the CPU, which PyTorch and Lightning refuse: a test of all but the GPU.

FSDP asks its device for streams and events, in CUDA's words. On the CPU everything is done when it returns.
"""

import contextlib
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.strategies import FSDPStrategy
from torch.distributed.fsdp import FullyShardedDataParallel, _common_utils

from seggrid import training
from seggrid.entry import main


class Done:
    """A stream or an event of a device that waits for each operation."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __getattr__(self, name: str) -> Any:
        return Done


class Cpu:
    """``torch.cpu`` with the words of ``torch.cuda``."""

    Stream = Event = current_stream = default_stream = Done

    def stream(self, stream: Done) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def set_device(self, device: Any) -> None: ...

    def current_device(self) -> torch.device:
        return torch.device("cpu")

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)


class OnCpu(FSDPStrategy):
    def _setup_model(self, model: torch.nn.Module) -> FullyShardedDataParallel:
        return FullyShardedDataParallel(
            model,
            mixed_precision=self.mixed_precision_config,
            sharding_strategy=self.sharding_strategy,
            device_id=torch.device("cpu"),
            **self.kwargs,
        )


if __name__ == "__main__":
    handle = _common_utils._FSDPDeviceHandle
    handle.from_device = classmethod(lambda cls, device: cls(device, Cpu()))  # type: ignore[method-assign,assignment]
    training.FSDPStrategy = OnCpu  # type: ignore[misc]
    main("train", Path(__file__).resolve().parents[1] / "conf")
