"""Looks at a data set before anything is trained on it: ``python -m seggrid.data.check dataset=camvid ...``."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from seggrid import checks
from seggrid.config import CheckConfig
from seggrid.data.labels import check_classes, settled
from seggrid.entry import main
from seggrid.errors import UserError
from seggrid.typed import as_typed

CONF = Path(__file__).resolve().parents[3] / "conf"
REPORT, SAMPLES, AUGMENTED = "check.json", "samples.png", "augmented.png"


def run(composed: DictConfig) -> None:
    """Checks a data set: prints tables, and leaves pictures and figures in the run's folder.

    Raises:
        UserError: it cannot be trained on as it is; the lines above the error say why.
    """
    config: CheckConfig = as_typed(composed)
    check_classes(config.dataset)
    config.dataset = settled(config.dataset)
    checks.check_data(config)
    check(config, Path(HydraConfig.get().runtime.output_dir))


def check(config: CheckConfig, folder: Path) -> None:
    """Checks a data set; see :func:`run`.

    Args:
        config: the data set, its splits and the augmentation to be shown.
        folder: gets ``check.json``, ``samples.png`` and ``augmented.png``.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from seggrid.data import inspection, sheet
    from seggrid.data.datamodule import open_source

    dataset, console = config.dataset, Console(highlight=False)
    sources = {
        # A split for training and validation without a single mask is a mistake, one for a test server is not.
        split: open_source(dataset, split, need_labels=split in ("train", "val") and dataset.masks is not None)
        for split in config.splits
    }
    reports = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not (config.progress_bar and sys.stdout.isatty())) as bar:
        for split, source in sources.items():
            looks = bar.track(
                inspection.look_at_all(source, config.num_workers), total=len(source), description=f"reading {split}"
            )
            reports.append(inspection.SplitReport(split, list(looks), len(source)))
    for report in reports:
        unlabelled = "" if sources[report.split].labelled else ", no labels"
        console.print(f"{report.split}: {report.total} images, {inspection.sizes(report)}{unlabelled}", soft_wrap=True)
    console.print(_table(reports, config))
    first = reports[0]
    mean, std = inspection.mean_and_std(first)
    weights = inspection.class_weights(first, dataset)
    if mean:
        console.print(f"mean and standard deviation of {first.split}: {_list(mean)} {_list(std)}", soft_wrap=True)
    if any(weights):
        console.print(f"to weigh rare classes: 'loss.class_weights={_list(weights)}'", soft_wrap=True)
    faults = [line for report in reports for line in inspection.faults(report, dataset)]
    doubts = inspection.doubts(reports, dataset)
    for line in doubts:
        console.print(f"[yellow]warning:[/yellow] {escape(line)}", soft_wrap=True)
    for line in faults[: config.faults]:
        console.print(f"[red]fault:[/red] {escape(line)}", soft_wrap=True)
    if len(faults) > config.faults:
        console.print(f"and {len(faults) - config.faults} faults more, in {folder / REPORT}", soft_wrap=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / REPORT).write_text(
        json.dumps(
            {
                "dataset": dataset.name,
                "classes": list(dataset.classes),
                "splits": {report.split: _figures(report, config) for report in reports},
                "mean": mean,
                "std": std,
                "class_weights": weights,
                "warnings": doubts,
                "faults": faults,
            },
            indent=1,
        )
    )
    usable = [at for at, look in enumerate(first.looks) if inspection.is_usable(look, dataset)]
    shown = sheet.save_sheets(sources[first.split], usable, config, folder / SAMPLES, folder / AUGMENTED)
    places = [*(f"pictures: {', '.join(map(str, shown))}" for _ in shown[:1]), f"figures: {folder / REPORT}"]
    console.print("  ".join(places), markup=False, soft_wrap=True)
    if faults:
        raise UserError(f"dataset={dataset.name} has {len(faults)} faults, named above; mend them before training")
    console.print("no fault found" + (f", {len(doubts)} warnings" if doubts else ""))


def _table(reports: list[Any], config: CheckConfig) -> Any:
    from rich.markup import escape
    from rich.table import Table

    from seggrid.data import inspection

    table = Table(
        title=f"{escape(config.dataset.name)}: share of the pixels that count, and images", title_justify="left"
    )
    table.add_column("class")
    columns = []
    for report in reports:
        table.add_column(f"{report.split} %", justify="right")
        table.add_column("images", justify="right")
        pixels = inspection.class_pixels(report, config.dataset)
        columns.append([f"{100 * value / max(1, sum(pixels)):.2f}" for value in pixels])
        columns.append([str(value) for value in inspection.class_images(report, config.dataset)])
    for index, name in enumerate(config.dataset.classes):
        table.add_row(escape(name), *(column[index] for column in columns))
    return table


def _figures(report: Any, config: CheckConfig) -> dict[str, Any]:
    from seggrid.data import inspection

    return {
        "images": report.total,
        "sizes": inspection.sizes(report),
        "pixels": inspection.class_pixels(report, config.dataset),
        "images_by_class": inspection.class_images(report, config.dataset),
        "labels": {str(label): count for label, count in sorted(report.labels.items())},
        "unreadable": [dataclasses.asdict(look)["fault"] for look in report.looks if look.fault is not None],
    }


def _list(values: list[float]) -> str:
    return "[" + ",".join(f"{value:.3f}" for value in values) + "]"


if __name__ == "__main__":
    main("check", CONF, run)
