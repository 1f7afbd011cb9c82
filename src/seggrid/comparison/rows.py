"""One record as one row: every figure of it under the name that it has in ``comparison.csv``."""

import math
from typing import Any

from seggrid.results import Record

# Where two sections share a key, the prefix tells them apart: `images_per_s` in training, `profile_images_per_s`.
SECTIONS = {
    "metrics": "",
    "model": "",
    "train": "",
    "profile": "profile_",
    "published": "published_",
    "environment": "",
}
DERIVED = {  # not as they are in the csv
    *("rank", "settings", "input", "profile_input", "latency_range", "folder", "profile_folder"),
    *("inference_memory_bytes", "training_memory_bytes"),
}
# What a profile measures of one way of inference: it tells nothing of a run whose scores are by another.
OF_INFERENCE = {
    *("latency_ms_median", "latency_ms_p10", "latency_ms_p90", "latency_samples", "latency_range"),
    *("inference_memory_bytes", "profile_images_per_s", "profile_peak_memory_bytes"),
    *("profile_best_batch_size", "profile_best_images_per_s", "profile_noise"),
}
OF_BATCHES = "profile_batch_sizes"  # likewise, a key for each figure
SAME = 0.005  # a published count that is as near as this to one way of counting was counted in that way


def flatten(record: Record) -> dict[str, Any]:
    """Returns every figure and word of a record by its name in ``comparison.csv``; None and absent mean the same."""
    values = {key: getattr(record, key) for key in ("backend", "arch", "encoder", "dataset", "seed", "kind", "status")}
    error = record.error or {}
    values["error"] = " ".join(str(error.get("message") or error.get("type") or "").split()) or None
    for section, prefix in SECTIONS.items():
        for key, value in (getattr(record, section) or {}).items():
            if key == "latency_ms" and isinstance(value, dict):
                values |= {
                    "latency_samples" if k == "samples" else f"latency_ms_{k}": _plain(v) for k, v in value.items()
                }
            elif key == "input_size" and isinstance(value, list) and len(value) == 2:
                values |= {"input_height": value[0], "input_width": value[1]}
            elif isinstance(value, dict):
                values |= {f"{prefix}{key}_{part}": _plain(content) for part, content in value.items()}
            elif isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
                parts = dict.fromkeys(part for entry in value for part in entry)
                values |= {f"{prefix}{key}_{part}": _plain([entry.get(part) for entry in value]) for part in parts}
            else:
                values[prefix + key] = _plain(value, "; " if key == "unmatched" else " ")
    values |= _interval(record) | _evaluation(record) | _against_published(values) | _memory(values)
    values |= {"overrides": " ".join(map(str, record.overrides)), "started": record.started, "ended": record.ended}
    if "input_height" in values:
        values["input"] = f"{values['input_height']} x {values['input_width']}"
    low, high = (as_number(values.get(f"latency_ms_{end}")) for end in ("p10", "p90"))
    if low is not None and high is not None:
        values["latency_range"] = f"{low:.2f} to {high:.2f}"
    return values


def with_profile(own: dict[str, Any], profile: dict[str, Any], same_inference: bool = True) -> dict[str, Any]:
    """Returns the row of a run with the figures that a profile of the same network lends it.

    Args:
        own: the run's row.
        profile: the profile's row.
        same_inference: whether the profile timed the inference that the run's scores are by; else what it says of the
            network and of its training is lent alone.

    Returns:
        The run's own values first; where the profile says another, it is under ``profile_<key>``.
    """
    values = {**own, "profile_input": profile.get("input")}
    for key, value in profile.items():
        if key in ("kind", "status", "error") or value is None:
            continue
        if not same_inference and (key in OF_INFERENCE or key.startswith(OF_BATCHES)):
            continue
        if values.get(key) is None:
            values[key] = value
        elif values[key] != value and profile.get(f"profile_{key}") is None:
            values[f"profile_{key}"] = value
    return values


def inference(record: Record) -> tuple[Any, ...]:
    """Returns by which inference a record's scores, or a profile's times, are: what two of them must have in common.

    A training is validated on whole images.

    Args:
        record: of any kind.
    """
    if record.kind == "profile":
        how = record.profile or {}
        return how.get("mode") or "whole", how.get("crop"), how.get("stride"), "none"
    how = record.evaluation or {}
    return how.get("inference") or "whole", how.get("crop"), how.get("stride"), _evaluation(record).get("tta", "none")


def as_number(value: Any) -> float | None:
    """Returns ``value`` as a float where it is a finite number (a bool is none), else None."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _plain(value: Any, between: str = " ") -> Any:
    """A value for one field: of a distribution its median, a list as one text."""
    if isinstance(value, dict):
        return value.get("median")
    if isinstance(value, list):
        return between.join("" if entry is None else str(_plain(entry)) for entry in value)
    return value


def _interval(record: Record) -> dict[str, Any]:
    ends = (record.intervals or {}).get("mIoU")
    if not isinstance(ends, list) or len(ends) != 2 or any(as_number(end) is None for end in ends):
        return {}
    return {"mIoU_low": ends[0], "mIoU_high": ends[1], "interval": f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}"}


def _evaluation(record: Record) -> dict[str, Any]:
    """How it was measured, as short words; nothing for the plain evaluation that ends a training."""
    how = record.evaluation
    if not isinstance(how, dict):
        return {}
    flip, scales = how.get("tta_flip"), how.get("tta_scales") or [1.0]
    tta = "+".join([f"{len(scales)} scales"] * (scales != [1.0]) + ["flip"] * bool(flip))
    return {"split": how.get("split"), "inference": how.get("inference"), "tta": tta or "none"}


def _memory(values: dict[str, Any]) -> dict[str, Any]:
    """The peaks of a profile without what the process held before the model was built, as far as that is known."""
    base = as_number(values.get("profile_base_memory_bytes")) or 0.0
    peaks = {"inference": "profile_peak_memory_bytes", "training": "profile_train_peak_memory_bytes"}
    known = {name: peak for name, key in peaks.items() if (peak := as_number(values.get(key))) is not None}
    return {f"{name}_memory_bytes": max(0.0, peak - base) for name, peak in known.items()}


def _against_published(values: dict[str, Any]) -> dict[str, Any]:
    """What is measured of what others have published, and its difference as a fraction of theirs.

    Some count the auxiliary heads, others do not. Our ``params`` have them and our ``gmacs`` do not; a published figure
    that is the other count is compared with that one, and ``published_<key>_counted`` says so.
    """
    params, aux = as_number(values.get("params")), as_number(values.get("params_aux"))
    gmacs, gmacs_aux = as_number(values.get("gmacs")), as_number(values.get("gmacs_aux"))
    others = {
        "params": (params - aux if params is not None and aux else None, "without auxiliary head"),
        "gmacs": (gmacs + gmacs_aux if gmacs is not None and gmacs_aux else None, "with auxiliary head"),
    }
    mine = {"params": params, "gmacs": gmacs, "train_s_per_iter": as_number(values.get("profile_train_s_per_iter"))}
    found: dict[str, Any] = {}
    for key, measured in mine.items():
        theirs = as_number(values.get(f"published_{key}"))
        if not theirs or measured is None:
            continue
        other, words = others.get(key, (None, ""))
        if other is not None and abs(other / theirs - 1) < min(SAME, abs(measured / theirs - 1)):
            measured, found[f"published_{key}_counted"] = other, words
        found |= {f"published_{key}_measured": measured, f"published_{key}_difference": measured / theirs - 1}
    return found
