"""The workspace of W&B in which the runs of a sweep are compared: which panels, and which keys they plot."""

from dataclasses import dataclass
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces import expr

from seggrid.comparison import commands
from seggrid.comparison.report import Run
from seggrid.comparison.rows import as_number
from seggrid.config_groups import TrainerConfig
from seggrid.wandb_record import CONFUSION, figures, iou_key, miou_key, picture_keys
from seggrid.wandb_run import STEP

MIOU = "metrics/mIoU"
BACKEND, ARCH, ENCODER = "backend.name", "arch.name", "encoder.name"  # in the configuration
COSTS = {  # what the mIoU is plotted against
    "profile/latency_ms": "latency in ms",
    "model/gmacs": "GMac",
    "model/params": "parameters",
    "profile/peak_memory_bytes": "memory of an inference in bytes",
    "train/s_per_iter": "seconds per training step",
}
# What a profile measured of an inference: nothing of a run whose scores are by another.
OF_INFERENCE = ("profile/latency_ms", "profile/images_per_s", "profile/peak_memory_bytes", "profile/best_")
CURVES = {"val/mIoU": "mIoU in validation", "val/loss": "loss in validation", "train/loss": "loss in training"}


@dataclass
class Columns:
    """What the runs of a sweep have in W&B.

    Attributes:
        rows: of each run the figures of its summary, those included that its profile lends it.
        pictures: the keys of the predictions and the confusion matrix, as far as a run has them.
    """

    rows: list[dict[str, Any]]
    pictures: list[str]

    @classmethod
    def of(cls, runs: list[Run]) -> "Columns":
        """Takes them from the records, which W&B has been given."""
        rows = [figures(run.record) | lent(run) for run in runs]
        confusion = [CONFUSION] if any((run.folder / f"{CONFUSION}.png").exists() for run in runs) else []
        return cls(rows, sorted({key for run in runs for key in picture_keys(run.folder)}) + confusion)

    def has(self, *keys: str) -> bool:
        """Tells whether there is a run that has all these figures."""
        return any(all(key in row for key in keys) for row in self.rows)


def lent(run: Run) -> dict[str, Any]:
    """Returns the figures that a profile of the same network lends a run: none that the run has itself."""
    if run.profile is None:
        return {}
    found = {key: value for key, value in figures(run.profile.record).items() if key.startswith("profile/")}
    if run.has_profiled_inference:
        return found
    return {key: value for key, value in found.items() if not key.startswith(OF_INFERENCE)}


def build(runs: list[Run], entity: str, project: str, name: str, groups: list[str]) -> ws.Workspace:
    """Builds the workspace; nothing is sent anywhere.

    Args:
        runs: those that were logged to W&B, joined with their profiles.
        entity: whose the project is.
        project: where they are.
        name: of the workspace.
        groups: those of the runs: others of the project are left out. Empty takes all.
    """
    columns = Columns.of(runs)
    found = (
        ("mIoU", _scores(columns)),
        ("mIoU by backend, for equal arch and encoder", _backends(runs)),
        ("mIoU against cost", _costs(columns)),
        ("Parallel coordinates", _coordinates(columns)),
        ("IoU by class", _classes(runs, columns)),
        ("Predictions side by side", _pictures(columns)),
        ("Learning curves", _curves(runs)),
        ("What differs", [wr.RunComparer(diff_only="split", layout=wr.Layout(w=24, h=12))]),
    )
    shown = [key for key in (MIOU, *COSTS) if columns.has(key)]
    order = [expr.Ordering(expr.Summary(MIOU), ascending=False)] if MIOU in shown else []
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[ws.Section(name=title, panels=panels, is_open=True) for title, panels in found if panels],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=max(10, len(runs))),
        runset_settings=ws.RunsetSettings(
            filters=expr.And(expr.Metric("Group").isin(groups)) if groups else "",
            order=order,
            pinned_columns=["run:displayName", *(f"summary:{key}" for key in shown)],
        ),
    )


def as_json(workspace: ws.Workspace) -> str:
    """Returns what ``workspace.save()`` would send as the workspace's specification.

    The library has no public way to it: this is what its ``save`` does, of version 0.4.13, which pyproject.toml fixes
    for this reason. It can go when the library can export a workspace.
    """
    text: str = workspace._to_model().spec.model_dump_json(by_alias=True, exclude_none=True, indent=1)
    return text


def _scores(columns: Columns) -> list[Any]:
    return [wr.BarPlot(title="mIoU", metrics=[MIOU], max_runs_to_show=100)] if columns.has(MIOU) else []


def _backends(runs: list[Run]) -> list[Any]:
    """A panel for each arch and encoder that several backends have; over seeds the mean, and its standard deviation."""
    backends: dict[tuple[str, str], set[str]] = {}
    for run in runs:
        if run.score is not None:
            backends.setdefault((run.record.arch, run.record.encoder), set()).add(run.record.backend)
    return [
        wr.BarPlot(
            title=f"{arch} / {encoder}",
            metrics=[miou_key(arch, encoder)],
            groupby=wr.Config(BACKEND),
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
        )
        for (arch, encoder), names in sorted(backends.items())
        if len(names) > 1
    ]


def _costs(columns: Columns) -> list[Any]:
    return [
        wr.ScatterPlot(title=f"mIoU against {head}", x=wr.SummaryMetric(key), y=wr.SummaryMetric(MIOU), log_x=True)
        for key, head in COSTS.items()
        if columns.has(key, MIOU)
    ]


def _coordinates(columns: Columns) -> list[Any]:
    if not columns.has(MIOU):
        return []
    chosen = [wr.Config(name) for name in (BACKEND, ARCH, ENCODER)]
    chosen += [wr.SummaryMetric(key) for key in (*COSTS, MIOU) if columns.has(key)]
    axes = [wr.ParallelCoordinatesPlotColumn(metric) for metric in chosen]
    return [wr.ParallelCoordinatesPlot(columns=axes, layout=wr.Layout(w=24, h=9))]


def _classes(runs: list[Run], columns: Columns) -> list[Any]:
    names = dict.fromkeys(row["class"] for run in runs for row in run.record.per_class or [])
    return [
        wr.BarPlot(title=name, metrics=[iou_key(name)], max_runs_to_show=100)
        for name in names
        if columns.has(iou_key(name))
    ]


def _pictures(columns: Columns) -> list[Any]:
    return [wr.MediaBrowser(title=key, media_keys=[key], gallery_axis="run", num_columns=4) for key in columns.pictures]


def _curves(runs: list[Run]) -> list[Any]:
    trained = [run.record for run in runs if run.record.kind == "train"]
    without = {"val/loss"} if all((record.metrics or {}).get("loss") is None for record in trained) else set()
    if not any(_logged_a_step(run) for run in runs if run.record.kind == "train"):
        without.add("train/loss")
    keys = [key for key in CURVES if trained and key not in without]
    return [wr.LinePlot(title=CURVES[key], x=STEP, y=[key], max_runs_to_show=100) for key in keys]


def _logged_a_step(run: Run) -> bool:
    """Whether a training was long enough for a step's loss to be logged, which is done every so many steps."""
    steps = as_number((run.record.train or {}).get("steps"))
    trainer = commands.resolved(run.folder).get("trainer")
    every = as_number(trainer.get("log_every_n_steps")) if isinstance(trainer, dict) else None
    return steps is None or steps >= (every or TrainerConfig().log_every_n_steps)
