"""The plots of what cells cost on a comparison's page: time, where it goes, memory, multiply-adds."""

from html import escape
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from seggrid.plots import GREY, MARKS, OTHER_MARK, log_axis, plot
from seggrid.rows import as_number

if TYPE_CHECKING:
    from seggrid.report import Run

STAGES = {
    "encoder": "#3b82c4",
    "decoder": "#2a9d78",
    "loss": "#c9a227",
    "backward": "#d9822b",
    "optimizer": "#9b6bc4",
}
DATA = ("data, in one process", "#8d99a6")  # no part of a step: it is made beside it
LINES = ("#3b82c4", "#d9822b", "#2a9d78", "#9b6bc4", "#c2556e", "#c9a227", "#4aa3a2", "#8d6e4f")
DASHES = ("solid", "dash", "dot", "dashdot")
ROW = 34  # pixels
GIB = 2**-30


def sections(profiles: list["Run"]) -> list[tuple[str, str]]:
    """Returns the sections of the page about costs, each a heading and its HTML, empty where nothing is known.

    Args:
        profiles: completed profiles, each once.
    """
    return [
        ("Latency", _latency(profiles)),
        ("Throughput", _throughput(profiles)),
        ("Where the time of a training step goes", _stages(profiles)),
        ("Peak memory", _memory(profiles)),
        ("GMac", _gmacs(profiles)),
    ]


def _latency(profiles: list["Run"]) -> str:
    runs = _with(profiles, "latency_ms_median")
    if not runs:
        return ""
    figure = go.Figure()
    drawn = [(place, value) for place, run in enumerate(runs) for value in _samples(run)]
    figure.add_scatter(
        x=[value for _, value in drawn],
        y=[place for place, _ in drawn],
        mode="markers",
        marker={"color": GREY, "opacity": 0.35, "size": 6},
        customdata=[escape(runs[place].label) for place, _ in drawn],
        hovertemplate="%{x:.2f} ms, one sample<br>%{customdata}<extra></extra>",
        name="samples",
        cliponaxis=False,
    )
    for backend in dict.fromkeys(run.record.backend for run in runs):
        places = [place for place, run in enumerate(runs) if run.record.backend == backend]
        mine = [runs[place] for place in places]
        colour, symbol = MARKS.get(backend, OTHER_MARK)
        medians = [_number(run, "latency_ms_median") for run in mine]
        lows, highs = (
            [_number(run, key) or median for run, median in zip(mine, medians, strict=True)]
            for key in ("latency_ms_p10", "latency_ms_p90")
        )
        figure.add_scatter(
            x=medians,
            y=places,
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [high - median for high, median in zip(highs, medians, strict=True)],
                "arrayminus": [median - low for low, median in zip(lows, medians, strict=True)],
                "thickness": 2,
                "width": 6,
            },
            mode="markers",
            name=escape(backend),
            customdata=[[escape(run.label), low, high] for run, low, high in zip(mine, lows, highs, strict=True)],
            hovertemplate="<b>%{customdata[0]}</b><br>%{x:.2f} ms, p10 %{customdata[1]:.2f}, p90 %{customdata[2]:.2f}"
            "<extra></extra>",
            marker={"color": colour, "symbol": symbol, "size": 11, "line": {"width": 1, "color": "white"}},
        )
    figure.update_xaxes(title_text="latency of one image (ms)", rangemode="tozero")
    log_axis(figure, [_number(run, "latency_ms_median") for run in runs])
    _rows(figure, runs)
    note = "Median, with whiskers from p10 to p90; grey: every sample."
    return plot(figure, "plot-latency") + f'\n<p class="note">{note}</p>'


def _throughput(profiles: list["Run"]) -> str:
    figure = go.Figure()
    sizes: set[float] = set()
    for place, run in enumerate(run for run in profiles if len(_batches(run)) > 1):
        batches = _batches(run)
        sizes |= batches.keys()
        figure.add_scatter(
            x=list(batches),
            y=list(batches.values()),
            mode="lines+markers",
            name=escape(run.label),
            line={"color": LINES[place % len(LINES)], "dash": DASHES[place // len(LINES) % len(DASHES)], "width": 2},
            hovertemplate=f"<b>{escape(run.label)}</b><br>%{{y:.1f}} images/s at batch %{{x}}<extra></extra>",
            cliponaxis=False,
        )
    if not sizes:
        return ""
    ticks = sorted(sizes)
    figure.update_xaxes(title_text="batch size", type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
    figure.update_yaxes(title_text="images/s", rangemode="tozero")
    figure.update_layout(height=440, showlegend=True, legend={"x": 1.02, "y": 1})
    return plot(figure, "plot-throughput")


def _stages(profiles: list["Run"]) -> str:
    runs = [run for run in profiles if any(_stage(run, stage) for stage in (*STAGES, "data"))]
    if not runs:
        return ""
    figure = go.Figure()
    bars = [(stage, stage, colour, 0.0, 0.5) for stage, colour in STAGES.items()]
    bars.append(("data", *DATA, 0.36, 0.18))  # a bar of its own, below that of the step
    for stage, name, colour, below, width in bars:
        values = [_stage(run, stage) for run in runs]
        if not any(values):
            continue
        figure.add_bar(
            x=values,
            y=[place + below for place in range(len(runs))],
            width=width,
            orientation="h",
            name=name,
            marker={"color": colour},
            customdata=[escape(run.label) for run in runs],
            hovertemplate=f"<b>{name}</b> %{{x:.2f}} ms<br>%{{customdata}}<extra></extra>",
        )
    figure.update_layout(barmode="stack")
    figure.update_xaxes(title_text="a training step (ms)")
    _rows(figure, runs)
    figure.update_layout(legend={"traceorder": "normal"})
    whole = any(_stage(run, "decoder") and not _stage(run, "encoder") for run in runs)
    note = '<p class="note">Where there is no encoder, the decoder is the whole forward pass.</p>' if whole else ""
    return plot(figure, "plot-stages") + note


def _memory(profiles: list["Run"]) -> str:
    keys = {"inference_memory_bytes": "inference, batch 1", "training_memory_bytes": "training step"}
    runs = [run for run in profiles if any(_number(run, key) for key in keys)]
    bars = {name: [_number(run, key) * GIB or None for run in runs] for key, name in keys.items()}
    if not runs:
        return ""
    based = [run for run in runs if _number(run, "profile_base_memory_bytes")]
    lacking = [run for run in runs if as_number(run.values.get("profile_base_memory_bytes")) is None]
    note = "Without what the process held before the model was built." if based else ""
    if based and lacking:
        note += f" That is not known of {escape(', '.join(run.label for run in lacking))}."
    return _bars(runs, bars, "peak memory (GiB)", "plot-memory") + (f'<p class="note">{note}</p>' if note else "")


def _gmacs(profiles: list["Run"]) -> str:
    runs = _with(profiles, "gmacs")
    bars: dict[str, list[float | None]] = {"GMac": [_number(run, "gmacs") for run in runs]}
    return _bars(runs, bars, "10⁹ multiply-adds of one image", "plot-gmacs") if runs else ""


def _bars(runs: list["Run"], bars: dict[str, list[float | None]], title: str, name: str) -> str:
    figure = go.Figure()
    for place, (head, values) in enumerate((head, values) for head, values in bars.items() if any(values)):
        figure.add_bar(
            x=values,
            y=list(range(len(runs))),
            orientation="h",
            name=head,
            marker={"color": LINES[place]},
            text=["" if value is None else f"{value:.2f}" for value in values],
            textposition="outside",
            cliponaxis=False,
            customdata=[escape(run.label) for run in runs],
            hovertemplate=f"%{{x:.3f}}, {head}<br>%{{customdata}}<extra></extra>",
        )
    figure.update_layout(barmode="group")
    most = max(value or 0 for values in bars.values() for value in values)
    figure.update_xaxes(title_text=title, range=[0, 1.08 * most])  # room for the last bar's figure
    _rows(figure, runs, rows=len(figure.data))
    figure.update_layout(showlegend=len(figure.data) > 1)
    return plot(figure, name)


def _rows(figure: Any, runs: list["Run"], rows: int = 1) -> None:
    """Gives each run a row, the first on top."""
    # Positions, not names, on the axis: plotly would take names such as "1" for numbers.
    figure.update_yaxes(
        range=[len(runs) - 0.4, -0.6],
        tickvals=list(range(len(runs))),
        ticktext=[escape(run.label) for run in runs],
        ticksuffix="  ",
        fixedrange=True,
        showgrid=False,
        ticks="",
    )
    figure.update_layout(
        height=(ROW if rows == 1 else 24 * rows) * len(runs) + 110,
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        bargap=0.35,
    )


def _with(profiles: list["Run"], key: str) -> list["Run"]:
    return [run for run in profiles if as_number(run.values.get(key)) is not None]


def _number(run: "Run", key: str) -> float:
    return as_number(run.values.get(key)) or 0.0


def _stage(run: "Run", stage: str) -> float:
    return _number(run, f"profile_stages_ms_{stage}")


def _samples(run: "Run") -> list[float]:
    """Every timed pass, in milliseconds."""
    latency = (run.record.profile or {}).get("latency_ms")
    samples = latency.get("samples") if isinstance(latency, dict) else None
    return [float(value) for value in samples if as_number(value) is not None] if isinstance(samples, list) else []


def _batches(run: "Run") -> dict[float, float]:
    """The images per second of each batch size."""
    entries = (run.record.profile or {}).get("batch_sizes")
    pairs = [
        (as_number(entry.get("batch_size")), as_number(entry.get("images_per_s")))
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict)
    ]
    return dict(sorted((size, speed) for size, speed in pairs if size and speed is not None))
