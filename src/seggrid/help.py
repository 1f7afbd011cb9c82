"""What ``--help`` prints: the choices, and how to learn the rest.

Hydra's own help asks every source of configuration about every group, copying all it knows each time: that takes
several times as long as importing Hydra.
"""

import textwrap
from pathlib import Path

import yaml

ENCODERS = "<any timm model name>, smp/<any SMP encoder>"


def help_text(kind: str, conf: Path) -> str:
    """Returns the help of an entry point.

    Args:
        kind: ``train``, ``evaluate``, ``profile`` or ``check``.
        conf: the folder with the configuration groups.
    """
    command = "python -m seggrid.data.check" if kind == "check" else f"python {kind}.py"
    primary = (conf / f"{kind}.yaml").read_text()
    lines = [line[2:] for line in primary.splitlines() if line.startswith("# ")]
    groups = [item for item in yaml.safe_load(primary)["defaults"] if isinstance(item, dict)]
    if groups:
        lines += ["", "Choices, as group=choice; with -m several, separated by commas. Defaults are in brackets."]
    for item in groups:
        for group, default in item.items():
            files = sorted((conf / group).rglob("*.yaml"))
            names = [str(path.relative_to(conf / group).with_suffix("")) for path in files]
            shown = [f"[{name}]" if name == default else name for name in names]
            if group == "encoder":
                shown.append(ENCODERS)
            lines += textwrap.wrap(f"  {group:<11}{', '.join(shown)}", 110, subsequent_indent=" " * 13)
    lines += [
        "",
        f"{command} --cfg job               the configuration: any key of it can be set as key=value",
        f"HYDRA_FULL_ERROR=1 {command} ...  an error with its traceback",
        f"{command} --hydra-help            Hydra's own options",
    ]
    return "\n".join(lines)
