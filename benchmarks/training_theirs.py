"""The libraries' own training loops, over the same network as seggrid's.

SMP's examples (a LightningModule), torchvision's ``references/segmentation/train.py``, and mmengine's Runner with the
defaults of MMSegmentation's configurations. Where a case names files, torchvision and MMSegmentation load them by their
own pipelines. SMP has none: it gets a plain Dataset with OpenCV, as its examples read, and torchvision v2 on tensors.

With ``amp`` none scales its loss. Both torchvision's script and mmengine would, which float16 needs and bfloat16 does
not, and which costs them a check of all gradients and a synchronisation each step.
"""

import contextlib
import copy
import itertools
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Any

import cv2
import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from training_loops import IGNORE, LOG_EVERY, NAMES, SCALE, SHARE, Case, OneBatch, Settings, Stopwatch, adamw, lightning

from seggrid.models.segmenter import IMAGENET

# segmentation-models-pytorch: examples/*.ipynb


class SmpExample(pl.LightningModule):
    """SMP's examples without the counts of hits that they keep of each training batch."""

    def __init__(self, network: nn.Module, steps: int, normalize: bool) -> None:
        super().__init__()
        self.network, self.steps, self.normalize = network, steps, normalize
        self.register_buffer("mean", torch.tensor(IMAGENET[0]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET[1]).view(1, 3, 1, 1))
        self.loss_fn = nn.CrossEntropyLoss(ignore_index=IGNORE)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        image, mask = batch
        if self.normalize:
            image = (image - self.mean) / self.std
        loss: Tensor = self.loss_fn(self.network(image), mask.long())
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = adamw(self.network)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.steps, eta_min=1e-5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def smp(case: Case, settings: Settings) -> float:
    trained = SmpExample(copy.deepcopy(case.model.network), case.steps, case.files is not None)
    data = None if case.files is None else _loader(case)
    plain = Settings(benchmark=settings.benchmark)
    return lightning(case, trained, "bf16-mixed" if case.amp else "32-true", plain, data)


# torchvision: references/segmentation


class SmoothedValue:
    """Of ``utils.py``: a series over a window of 20."""

    def __init__(self) -> None:
        self.deque: deque[float] = deque(maxlen=20)
        self.total, self.count = 0.0, 0

    def update(self, value: float) -> None:
        self.deque.append(value)
        self.count += 1
        self.total += value


def torchvision(case: Case, settings: Settings) -> float:
    network = copy.deepcopy(case.model.network).train().to(case.device)
    optimizer = adamw(network)
    lr_scheduler = torch.optim.lr_scheduler.PolynomialLR(optimizer, case.steps, 0.9)
    scaler = torch.amp.GradScaler(case.device.type, enabled=False) if case.amp else None
    in_memory = DataLoader(OneBatch(case.batch, case.steps), batch_size=None)
    watch, meters = Stopwatch(case.steps, case.device), {"loss": SmoothedValue(), "lr": SmoothedValue()}
    for step, (images, masks) in enumerate(in_memory if case.files is None else _loader(case)):
        image, target = images.to(case.device), masks.to(case.device).long()
        with case.autocast():
            output = network(image)
            losses = [functional.cross_entropy(x, target, ignore_index=IGNORE) for x in output.values()]
            loss = losses[0] + 0.5 * losses[1] if len(losses) > 1 else losses[0]
        optimizer.zero_grad()
        if scaler is not None:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        else:
            loss.backward()
            optimizer.step()
        lr_scheduler.step()
        meters["loss"].update(loss.item())
        meters["lr"].update(optimizer.param_groups[0]["lr"])
        if step % LOG_EVERY == 0:
            str({name: (meter.total / meter.count, meter.deque[-1]) for name, meter in meters.items()})
        watch.step()
    return watch.seconds


class Files(Dataset[Any]):
    """Pictures and labels by torchvision's transforms, as in ``presets.py`` with ``use_v2``.

    Read for torchvision by Pillow, as there; for SMP by OpenCV, as in its examples, and transformed as tensors, which
    is faster.
    """

    def __init__(self, case: Case) -> None:
        from torchvision import tv_tensors
        from torchvision.transforms import v2

        assert case.files is not None
        self.images, self.masks = sorted(case.files.glob("images/*")), sorted(case.files.glob("masks/*"))
        self.image, self.mask, self.pillow = tv_tensors.Image, tv_tensors.Mask, case.backend == "torchvision"
        side = case.picture[0]
        steps: list[Any] = [
            v2.RandomResize(int(SCALE[0] * side), int(SCALE[1] * side)),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomCrop(case.crop, pad_if_needed=True, fill={tv_tensors.Mask: IGNORE, "others": 0}),
            v2.PILToTensor(),  # leaves tensors as they are
            v2.ToDtype({tv_tensors.Mask: torch.int64, "others": torch.float32}, scale=True),
        ]
        if case.backend == "torchvision":  # SMP's examples normalise in the model
            steps.append(v2.Normalize(*IMAGENET))
        self.transform = v2.Compose([*steps, v2.ToPureTensor()])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        if self.pillow:
            image: Any = Image.open(self.images[index]).convert("RGB")
            mask = np.array(Image.open(self.masks[index]))
        else:
            pixels: Any = cv2.imread(str(self.images[index]))
            image = self.image(torch.from_numpy(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)).permute(2, 0, 1))
            mask = cv2.imread(str(self.masks[index]), cv2.IMREAD_UNCHANGED)
        return self.transform(image, self.mask(mask))


def _loader(case: Case) -> Any:
    loader = DataLoader(Files(case), len(case.batch[0]), shuffle=True, drop_last=True, **case.loading())
    return itertools.islice(loader, case.steps) if case.backend == "torchvision" else loader


# MMSegmentation: mmengine's Runner


def mmseg(case: Case, settings: Settings) -> float:
    from mmengine.hooks import Hook
    from mmengine.optim import AmpOptimWrapper, OptimWrapper
    from mmengine.runner import Runner
    from mmengine.structures import PixelData
    from mmseg.models import SegDataPreProcessor
    from mmseg.structures import SegDataSample

    watch = Stopwatch(case.steps, case.device)

    class Watching(Hook):
        priority = "LOWEST"

        def after_train_iter(self, *_: Any, **__: Any) -> None:
            watch.step()

    network: Any = copy.deepcopy(case.model.network)
    network._is_init = True
    loader: Any
    if case.files is None:
        network.data_preprocessor = SegDataPreProcessor(size=case.crop)
        images, masks = case.batch
        metas = {"img_shape": case.crop, "ori_shape": case.crop, "pad_shape": case.crop}
        samples = [SegDataSample(gt_sem_seg=PixelData(data=mask.long()[None]), metainfo=metas) for mask in masks]
        batch = {"inputs": list(images), "data_samples": samples}
        loader = DataLoader(OneBatch(batch, case.steps), batch_size=None, collate_fn=copy.copy)
    else:
        mean, std = ([255 * value for value in values] for values in IMAGENET)
        network.data_preprocessor = SegDataPreProcessor(
            mean, std, size=case.crop, bgr_to_rgb=True, pad_val=0, seg_pad_val=IGNORE
        )
        loader = {
            "batch_size": len(case.batch[0]),
            **case.loading(),
            "sampler": {"type": "InfiniteSampler", "shuffle": True},
            "dataset": _mmseg_dataset(case),
        }
    network.data_preprocessor.to(case.device)

    class OnCpu(OptimWrapper):
        """AmpOptimWrapper refuses a CPU."""

        @contextlib.contextmanager
        def optim_context(self, model: nn.Module) -> Iterator[None]:
            with super().optim_context(model), case.autocast():
                yield

    on_gpu = partial(AmpOptimWrapper, dtype="bfloat16", loss_scale={"enabled": False})
    wrapper = (on_gpu if case.device.type == "cuda" else OnCpu) if case.amp else OptimWrapper
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(
            network,
            folder,
            train_dataloader=loader,
            train_cfg={"type": "IterBasedTrainLoop", "max_iters": case.steps, "val_interval": case.steps + 1},
            optim_wrapper=wrapper(optimizer=adamw(network)),
            param_scheduler=[{"type": "PolyLR", "eta_min": 1e-6, "power": 0.9, "end": case.steps, "by_epoch": False}],
            default_hooks={
                "timer": {"type": "IterTimerHook"},
                "logger": {"type": "LoggerHook", "interval": LOG_EVERY, "log_metric_by_epoch": False},
                "param_scheduler": {"type": "ParamSchedulerHook"},
                "runtime_info": {"type": "RuntimeInfoHook"},
                "checkpoint": None,
                "sampler_seed": None,
            },
            custom_hooks=[Watching()],
            env_cfg={"cudnn_benchmark": settings.benchmark, "dist_cfg": {"backend": "nccl"}},
            log_processor={"by_epoch": False},
            log_level="ERROR",
            default_scope="mmseg",
            experiment_name=f"run{time.time_ns()}",
        )
        runner.train()
    return watch.seconds


def _mmseg_dataset(case: Case) -> dict[str, Any]:
    height, width = case.picture
    return {
        "type": "BaseSegDataset",
        "data_root": str(case.files),
        "data_prefix": {"img_path": "images", "seg_map_path": "masks"},
        "img_suffix": ".png",
        "seg_map_suffix": ".png",
        "metainfo": {"classes": NAMES},
        "pipeline": [
            {"type": "LoadImageFromFile"},
            {"type": "LoadAnnotations"},
            {"type": "RandomResize", "scale": (width, height), "ratio_range": SCALE, "keep_ratio": True},
            {"type": "RandomCrop", "crop_size": case.crop, "cat_max_ratio": SHARE},
            {"type": "RandomFlip", "prob": 0.5},
            {"type": "PhotoMetricDistortion"},
            {"type": "PackSegInputs"},
        ],
    }


THEIRS = {"smp": smp, "torchvision": torchvision, "mmseg": mmseg}
