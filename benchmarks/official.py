"""Builds every configuration that MMSegmentation publishes, runs it, and trains it for one step by its own loss.

    python benchmarks/official.py                     all 617, one line each, then the sums; about 40 minutes on a core
    python benchmarks/official.py --match pspnet      those whose name has this in it

Weights start at random, and images are small: it shows that the models are whole, not how well they do. Networks of
one fixed size (BEiT, MAE) are built at their own, run on the meta device, and trained at a smaller one.
"""

import argparse
import gc
import json
import time
import warnings
from collections import Counter
from typing import Any

import torch

from seggrid import models
from seggrid.config import ArchConfig, BackendConfig, EncoderConfig, ModelConfig
from seggrid.errors import one_line
from seggrid.mmseg_configs import published_configs
from seggrid.models.reach import forward_on_meta

CLASSES, HEIGHT, WIDTH = 5, 64, 96
SMALLER = {"backbone": {"img_size": (HEIGHT, WIDTH)}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--match", default="")
    wanted = parser.parse_args().match
    warnings.simplefilter("ignore")
    reached: Counter[str] = Counter()
    for name in sorted(name for name in published_configs() if wanted in name):
        row = attempt(name)
        reached.update(["all", *row["reached"]])
        print(json.dumps(row), flush=True)
        gc.collect()
    print(", ".join(f"{stage} {reached[stage]}" for stage in ("all", "built", "right shape", "one step")))


def attempt(name: str) -> dict[str, Any]:
    """Returns how far a configuration comes: ``reached`` names the stages that it has passed."""
    row: dict[str, Any] = {"config": name, "reached": []}
    start = time.perf_counter()
    torch.manual_seed(0)
    try:
        segmenter = build(name, {})
        row["reached"].append("built")
        row["trains_from_logits"] = segmenter.trains_from_logits
        if segmenter.has_fixed_size:
            output, _ = forward_on_meta(segmenter, segmenter.native_size)
            assert output.logits.shape == (2, CLASSES, *segmenter.native_size)
            segmenter = build(name, SMALLER)
        images, masks = torch.randn(2, 3, HEIGHT, WIDTH), torch.randint(CLASSES, (2, HEIGHT, WIDTH))
        masks[:, :8] = 255
        with torch.no_grad():
            logits = segmenter.eval()(images[:1]).logits
        assert logits.shape == (1, CLASSES, HEIGHT, WIDTH), f"logits of {tuple(logits.shape)}"
        assert logits.isfinite().all(), "logits that are not finite"
        row["reached"].append("right shape")
        loss = torch.stack(list(segmenter.train().native_loss(images, masks, 255).values())).sum()
        loss.backward()
        trained = {key: weight for key, weight in segmenter.named_parameters() if weight.requires_grad}
        row["without_gradient"] = [key for key, weight in trained.items() if weight.grad is None]
        assert loss.isfinite(), f"a loss of {loss.item()}"
        torch.optim.SGD([weight for weight in trained.values() if weight.grad is not None], 1e-3).step()
        row |= {"loss": round(loss.item(), 4)}
        row["reached"].append("one step")
    except Exception as error:  # the reason is the result
        row["error"] = f"{type(error).__name__}: {one_line(error)[:200]}"
    row["seconds"] = round(time.perf_counter() - start, 1)
    return row


def build(name: str, changes: dict[str, Any]) -> models.Segmenter:
    """Builds a configuration for ``CLASSES`` classes, with changes to its parts."""
    arch = ArchConfig("official", {"mmseg": {"encoders": "native", "loss": "native", **changes}}, config=name)
    encoder = EncoderConfig("native", pretrained=False)
    names = [f"class {index}" for index in range(CLASSES)]
    return models.build(ModelConfig(BackendConfig("mmseg"), arch, encoder, CLASSES, names))


if __name__ == "__main__":
    main()
