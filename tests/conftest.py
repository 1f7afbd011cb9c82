"""The real configuration, composed in this process, and models built from it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Before torch is imported: on models of a few thousand weights a second thread costs more than it gives.
os.environ.setdefault("OMP_NUM_THREADS", "1")

CONF = Path(__file__).resolve().parent.parent / "conf"


@pytest.fixture(scope="session")
def compose() -> Callable[..., Any]:
    """``compose("train", "batch_size=2") -> TrainConfig``, from the real ``conf/`` unless ``conf`` names another."""
    import hydra
    from omegaconf import OmegaConf

    from seggrid import config

    def composed(kind: str, *overrides: str, conf: Path = CONF) -> Any:
        config.register()
        with hydra.initialize_config_dir(str(conf), version_base="1.3"):
            return OmegaConf.to_object(hydra.compose(kind, list(overrides)))

    return composed


@pytest.fixture(scope="session")
def model_config(compose: Callable[..., Any]) -> Callable[..., Any]:
    """``model_config("smp", "unet", "resnet18") -> ModelConfig``, without pretrained weights unless told so."""
    from seggrid.config import ModelConfig

    def described(backend: str, arch: str, encoder: str, *overrides: str, num_classes: int = 5) -> ModelConfig:
        cell = (f"backend={backend}", f"arch={arch}", f"encoder={encoder}", "encoder.pretrained=false")
        config = compose("profile", *cell, *overrides)
        return ModelConfig(config.backend, config.arch, config.encoder, num_classes)

    return described


@pytest.fixture(scope="session")
def build_model(model_config: Callable[..., Any]) -> Callable[..., Any]:
    """As ``model_config``, but the model, always with the same random weights for the same ``seed``."""
    import torch

    from seggrid import models

    def built(*cell: str, num_classes: int = 5, seed: int = 0) -> models.Segmenter:
        config = model_config(*cell, num_classes=num_classes)
        torch.manual_seed(seed)
        return models.build(config)

    return built
