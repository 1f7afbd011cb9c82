"""A profile and a training of the same network are one row: which profile goes with which run."""

from typing import TYPE_CHECKING, Any

from seggrid.comparison.columns import COLUMNS, PROFILE_SETTINGS
from seggrid.comparison.rows import flatten, inference

if TYPE_CHECKING:
    from seggrid.comparison.report import Run

# Settings that say where an encoder's values come from and whether they are trained, not what it is.
NO_NETWORK = ("encoder.pretrained", "encoder.weights", "encoder.frozen")
# What was built, whatever the number of classes and the input.
FACTS = ("params_encoder", "output_stride", "encoder_depth", "decoder_channels")
# Settings of which these facts say all: where the facts are the same, so is the network, whatever was said.
SAID_BY_FACTS = ("arch.output_stride", "arch.decoder_channels", "encoder.depth", "match")


HEADS = {"profile_input": "input", "profile_device": "device"}  # as they stand in a sentence


def join(runs: "list[Run]") -> "tuple[list[Run], list[str]]":
    """Lends the figures of each completed profile to the completed runs of the same network.

    Args:
        runs: all of them; those that get a profile have it in ``profile`` afterwards, those of whose network there are
            several have in ``several`` how these differ.

    Returns:
        The runs without the profiles that were lent, and lines that name the profiles that were not and say why.
    """
    profiles: dict[str, list[Run]] = {}
    for run in runs:
        if run.record.status == "completed" and run.record.kind == "profile":
            profiles.setdefault(run.model, []).append(run)
    lent: set[int] = set()
    several: dict[str, dict[str, None]] = {}  # cells by what their profiles differ in
    alone: dict[str, tuple[Run, list[Run]]] = {}
    for run in runs:
        of_cell = profiles.get(run.model, []) if run.record.status == "completed" else []
        if run.record.kind == "profile" or not of_cell:
            continue
        fitting = [profile for profile in of_cell if not _differences(run, profile)]
        same = [profile for profile in fitting if network(profile) == network(run)]
        fitting = same or fitting  # of two that are built alike, that which was asked for alike
        timed = [profile for profile in fitting if inference(profile.record) == inference(run.record)]
        fitting = timed or fitting  # of others only what they say of the network is lent
        if len(fitting) == 1:
            run.profile = fitting[0]
            lent.add(id(fitting[0]))
        elif fitting:
            run.several = _told_apart(fitting)
            several.setdefault(run.several, {})[run.model] = None
        else:
            alone[run.model] = (run, of_cell)
    notes = [
        f"Profiles with rows of their own: {', '.join(cells)} {'have' if len(cells) > 1 else 'has'} several, {how}; "
        "which of them belongs to a run is not known: give the folder of one."
        for how, cells in several.items()
    ]
    for cell, (run, of_cell) in alone.items():
        if not any(id(profile) in lent for profile in of_cell):
            what = ", ".join(_differences(run, of_cell[0]))
            notes.append(
                f"A profile with a row of its own: that of {cell} is of another network than its runs ({what})."
            )
    return [run for run in runs if id(run) not in lent], notes


def settings(run: "Run") -> list[str]:
    """Returns the overrides that make a run another experiment; its seed, and where it is written or read from, do not.

    An evaluation is of the experiment that the evaluated run was, and one more by what it says itself.
    """
    trained = (run.record.evaluation or {}).get("trained_with")
    overrides = [*(trained if isinstance(trained, list) else []), *run.record.overrides]
    elsewhere = {"evaluate": ("run=", "save="), "profile": ("published.", "trace=")}.get(run.record.kind, ())
    return [str(item) for item in overrides if not str(item).lstrip("+~").startswith(("seed=", "hydra.", *elsewhere))]


def network(run: "Run") -> dict[str, str]:
    """Returns the settings that say which network of its backend, arch and encoder a run is of."""
    said: dict[str, str] = {}
    for item in settings(run):
        key, _, value = item.lstrip("+~").partition("=")
        if key in ("match", "weights") or (key.startswith(("arch.", "encoder.")) and key not in NO_NETWORK):
            said[key] = value
    return {key: value for key, value in said.items() if value != "null" and (key, value) != ("match", "library")}


def _differences(run: "Run", profile: "Run") -> list[str]:
    """What makes two runs of a cell runs of two networks: what was said, and what was built."""
    mine, other = network(run), network(profile)
    alike = all(_fact(run, key) is not None and _fact(run, key) == _fact(profile, key) for key in FACTS)
    said = [
        f"{key}={mine.get(key) or other.get(key)}"
        for key in sorted({*mine, *other})
        if mine.get(key) != other.get(key) and not (alike and key in SAID_BY_FACTS)
    ]
    built = [
        key
        for key in FACTS
        if _fact(run, key) is not None and _fact(profile, key) is not None and _fact(run, key) != _fact(profile, key)
    ]
    return said or built


def _fact(run: "Run", key: str) -> Any:
    return (run.record.model or {}).get(key)


def _told_apart(profiles: "list[Run]") -> str:
    """What several profiles of a network differ in, as a clause."""
    rows = [flatten(profile.record) for profile in profiles]
    for row in rows:
        row["profile_input"] = row.get("input")
    heads = {column.key: column.head for column in COLUMNS} | HEADS
    parts = []
    for key in PROFILE_SETTINGS:
        texts = dict.fromkeys(str(row[key]) for row in rows if row.get(key) is not None)
        if len(texts) > 1:
            parts.append(f"{heads[key].removeprefix('profiled ')} {', '.join(texts)}")
    if not parts:
        said = [settings(profile) for profile in profiles]
        different = dict.fromkeys(item for items in said for item in items if not all(item in other for other in said))
        parts = list(different)
    return f"which differ in {' and in '.join(parts)}" if parts else "made with the same settings"
