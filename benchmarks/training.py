"""Seconds per training step: seggrid's loop beside each library's own, over the same network, in paired runs.

    python benchmarks/training.py what=loop        equal settings: fp32, one batch in memory; also the bare loop
    python benchmarks/training.py what=defaults    what each default of seggrid brings over the same run without it
    python benchmarks/training.py what=endtoend    seggrid's defaults beside theirs, from files to updated weights
        blocks=9 device=cpu|cuda backends=smp,torchvision,mmseg batch=4 size=128x128
        arch=unet|fcn|pspnet by library, encoder=resnet18
        steps=15, or 10 for defaults on a CPU, or 60 with loaders
        workers=0 amp=false: with true, their own loops train by autocast in bfloat16, without scaling the loss

A block runs A, B, B, A; its ratio is that of the sums. Prints every block in s/iter and the medians of the ratios, also
when Ctrl-C or ``timeout -s INT 600`` ends it early. Of a run the first fifth of the steps does not count. The models
are SMP's Unet, torchvision's FCN and MMSegmentation's PSPNet, the last two with their auxiliary heads; AdamW, poly,
cross-entropy. SMP has no data pipeline; endtoend gives it a plain Dataset with OpenCV and torchvision v2.

A memory layout and a precision bring other things to depthwise convolutions and to a transformer than to a ResNet:

    python benchmarks/training.py what=defaults blocks=5 backends=smp encoder=mobilenetv3_small_100
    python benchmarks/training.py what=defaults blocks=5 backends=smp arch=segformer encoder=smp/mit_b0
"""

import dataclasses
import os
import shutil
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ARCHS = {"smp": "unet", "torchvision": "fcn", "mmseg": "pspnet"}
ROOT = Path(__file__).resolve().parent.parent
PICTURES = 12
WORDS = {
    "what": "loop", "blocks": "9", "steps": "", "device": "cpu", "backends": "smp,torchvision,mmseg",
    "batch": "", "size": "", "arch": "", "encoder": "resnet18", "workers": "", "amp": "false",
}  # fmt: skip
# On a GPU a step of these sizes takes longer than it takes to launch, as trainings do; on a CPU it takes a tenth of a
# second, so that what a loop adds shows.
SIZES = {"cpu": ("4", "128x128", "0"), "cuda": ("16", "512x512", "8")}
CROPS = {"cpu": ("2", "256x512", "0"), "cuda": ("16", "512x512", "8")}

PIPELINES = {"smp": " (a plain Dataset with OpenCV and torchvision v2)"}
FOREACH = "foreach clipping, torch's own default"

Run = Callable[[], float]
Seconds = dict[str, list[float]]


def compare(runs: dict[str, Run], blocks: int, seconds: Seconds) -> None:
    """Runs blocks, and prints them; puts into ``seconds`` by contestant the sums of each block that is whole."""
    for run in runs.values():
        run()  # the first run of a process pays for what libraries set up once
    for block in range(blocks):
        times: Seconds = {name: [] for name in runs}
        # What comes later in a block is slower, whichever it is; in this order all lose the same.
        for name in (*runs, *reversed(runs)):
            times[name].append(runs[name]())
        for name, values in times.items():
            seconds.setdefault(name, []).append(sum(values))
        figures = "; ".join(f"{name} {' '.join(f'{value:.4f}' for value in times[name])}" for name in runs)
        print(f"  block {block}: {figures}", flush=True)


@dataclasses.dataclass
class Line:
    """A line of the summary: the ratio of two contestants' seconds, in words."""

    words: str
    seconds: Seconds
    over: str
    under: str

    def __str__(self) -> str:
        values = [a / b for a, b in zip(self.seconds[self.over], self.seconds[self.under], strict=True)]
        return self.words.format(f"{statistics.median(values):.3f} ({min(values):.3f}..{max(values):.3f})")


def main(words: dict[str, str]) -> None:
    if unknown := set(words) - set(WORDS):
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; allowed are {', '.join(WORDS)}")
    words = WORDS | words
    if words["device"] == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # mmengine takes a GPU where it sees one
    import hydra
    import torch
    import training_loops as loops
    import training_theirs
    from omegaconf import OmegaConf

    from seggrid import config, models
    from seggrid.console import quiet

    warnings.simplefilter("ignore")
    quiet()
    config.register()
    what, blocks, device = words["what"], int(words["blocks"]), words["device"]
    least = (CROPS if what == "endtoend" else SIZES)[device]
    batch, size, workers = (words[key] or value for key, value in zip(("batch", "size", "workers"), least, strict=True))
    steps = int(words["steps"] or default_steps(what, device, int(workers)))
    height, width = (int(side) for side in size.split("x"))
    cores = f"{torch.get_num_threads()} threads" if device == "cpu" else torch.cuda.get_device_name()
    print(
        f"torch {torch.__version__}, {cores}; batch {batch} of {size}, {words['encoder']}, workers {workers}, "
        f"{steps} steps"
    )
    lines: list[Line] = []
    stopped = False
    with tempfile.TemporaryDirectory() as name, hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        files = write(Path(name), int(batch) * steps) if what == "endtoend" else None
        for backend in words["backends"].split(","):
            cell = (f"backend={backend}", f"arch={words['arch'] or ARCHS[backend]}", f"encoder={words['encoder']}")
            composed = hydra.compose("profile", [*cell, "encoder.pretrained=false", f"num_classes={loops.CLASSES}"])
            torch.manual_seed(0)
            case = loops.Case(
                backend,
                models.build(config.model_config(OmegaConf.to_object(composed))),
                (
                    torch.randn(int(batch), 3, height, width),
                    torch.randint(0, loops.CLASSES, (int(batch), height, width), dtype=torch.uint8),
                ),
                torch.device(device),
                steps,
                int(workers),
                words["amp"] == "true",
                files,
            )
            title = f"{backend} {words['arch'] or ARCHS[backend]}"
            print(f"{title}: s/iter", flush=True)
            torch.backends.cudnn.benchmark = True
            plain = loops.Settings("bf16-mixed" if case.amp else "32-true")
            theirs = partial(training_theirs.THEIRS[backend], case, plain)
            seconds: Seconds = {}
            if what == "loop":
                runs: dict[str, Run] = {
                    "ours": partial(loops.ours, case, plain),
                    "theirs": theirs,
                    "bare": partial(loops.bare, case, plain),
                }
                for other in ("theirs", "bare"):
                    lines.append(Line(f"{title}: ours takes {{}} times {other}", seconds, "ours", other))
            elif what == "endtoend":
                runs = {"ours": partial(loops.ours, case, loops.DEFAULTS), "theirs": theirs}
                words_of_line = f"{title}{PIPELINES.get(backend, '')}: ours is {{}} times as fast"
                lines.append(Line(words_of_line, seconds, "theirs", "ours"))
            else:
                clipped = dataclasses.replace(loops.DEFAULTS, clip=1.0)
                settings = {"all on": loops.DEFAULTS, "all on and clipping": clipped}
                for label, without in changes(device).items():
                    kept = "all on and clipping" if label == FOREACH else "all on"
                    settings[f"without {label}"] = dataclasses.replace(settings[kept], **without)
                    lines.append(Line(f"{title}: {label} {{}}", seconds, f"without {label}", kept))
                runs = {name: partial(loops.ours, case, chosen) for name, chosen in settings.items()}
            try:
                compare(runs, blocks, seconds)
            except (KeyboardInterrupt, SystemExit):  # Lightning turns the first into the second
                stopped = True
                break
    if what == "defaults":
        print("times as fast as without it: median (range over the blocks)")
    print("\n".join(str(line) for line in lines if line.seconds))
    if stopped:
        sys.exit("interrupted: the medians are those of the blocks above")


def default_steps(what: str, device: str, workers: int) -> int:
    """Returns the steps of a run."""
    if what == "endtoend" and workers:
        return 60  # before them loaders have batches ready, and the network's time would be measured instead of theirs
    return 10 if what == "defaults" and device == "cpu" else 15


def changes(device: str) -> dict[str, dict[str, Any]]:
    """Returns by default what takes it away."""
    each: dict[str, dict[str, Any]] = {
        "channels_last": {"channels_last": False},
        "precision=auto": {"precision": "32-true"},
        "fused optimizer": {"fused": False},
        "logging and seeding off the hot path": {"hot_path": False},
    }
    if device == "cuda":
        each["cudnn.benchmark"] = {"benchmark": False}
    together = {key: value for without in each.values() for key, value in without.items()}
    return {**each, "all of them": together, FOREACH: {"foreach": False}}


def write(folder: Path, count: int) -> Path:
    """Writes pictures of 512x1024 with their labels, as many files as a run reads; of them ``PICTURES`` differ."""
    import cv2
    from data import picture

    for kind in ("images", "masks", "val"):
        (folder / kind).mkdir()
    for index in range(count):
        paths = [folder / kind / f"{index:05d}.png" for kind in ("images", "masks")]
        if index < PICTURES:
            image, labels = picture(index)
            cv2.imwrite(str(paths[0]), cv2.resize(image[..., ::-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
            cv2.imwrite(str(paths[1]), labels[::2, ::2])
        else:
            for path in paths:
                shutil.copyfile(path.with_name(f"{index % PICTURES:05d}.png"), path)
    os.link(folder / "images/00000.png", folder / "val/val.png")
    os.link(folder / "masks/00000.png", folder / "masks/val.png")
    return folder


def with_equal_memory() -> None:
    """Starts this process again with an allocator that keeps what is freed.

    By itself glibc's gives memory back to the system or not depending on what happens to lie at its end: between none
    and 20,000 page faults a step, a tenth of its time, for reasons that are no loop's merit.
    """
    if sys.platform == "linux" and "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        kept = {"MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_MMAP_THRESHOLD_": str(2**40)}
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **kept})


if __name__ == "__main__":
    with_equal_memory()
    main(dict(argument.split("=", 1) for argument in sys.argv[1:]))
