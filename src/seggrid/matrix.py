"""The support matrix: ``python -m seggrid.matrix > docs/models.md``. Imports no torch.

All of it is read from ``conf`` and from the installed libraries' own lists; this file names no library.
"""

import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from seggrid.checks import ENCODERS
from seggrid.encoder_names import DILATED, PYRAMIDS, VITS, encoder_names
from seggrid.errors import UserError

COMMAND = "python -m seggrid.matrix > docs/models.md"
SETTINGS = ("output_stride", "decoder_channels")

INTRODUCTION = f"""\
# What can be combined

Every architecture, library and encoder that seggrid can put together. Generated from `conf/`: change it there and run
`{COMMAND}`.

A cell is three words, and `-m` with commas makes a grid of them:
"""
ENCODER_WORDS = f"""
What stands in a column is what `encoder=` takes there:

- **any**: any timm name, or one of the library's own. The library itself may still refuse one, such as a plain ViT
  for a decoder that needs several strides, or a transformer whose last strides would have to be dilated.
- **pyramid**: the same, with feature maps of several strides: {", ".join(f"`{name}`" for name in PYRAMIDS)}.
- **dilated**: the last two feature maps at one stride, as of encoders that take an output stride:
  {", ".join(f"`{name}`" for name in DILATED)}; or a plain ViT.
- **vit**: plain ViTs, whose feature maps have one stride: {", ".join(f"`{name}`" for name in VITS)}.
- **native**: `encoder=native`, the network that the method brings itself.
- **own loss**: the method is trained with the library's own loss, most of them because logits alone cannot train all
  of it; all others with cross-entropy, unless `loss` says otherwise.
- Nothing: the library does not have this architecture.

What cannot be built is said to be so in one line; a sweep records it as skipped and goes on.
"""
SETTINGS_WORDS = """
## Settings

These have one name in every library. Unless you say otherwise each library keeps its own values.

- `arch.output_stride=8`: pixels of the image per pixel of the encoder's last feature map.
- `arch.decoder_channels=256`: channels that go into the last classifier.
- `encoder.depth=4`: number of stages, each of half the resolution of the one before.
- `encoder.frozen=true`: the encoder does not learn.
- `match=equal`: every library gets the values in the second column, where there are some. One that cannot have a value
  keeps its own, and the comparison says so. `match=library` is the default.

A value that you ask for and that cannot be had is refused in one line. The table shows what each library lets you set;
the number beside `output_stride` is what timm's encoders get where you say nothing. *From* names the library's own
configuration that the model is made from, as `arch.config` does for `arch=official`: both values are then tried on it.
Elsewhere, where nothing stands, the library has neither setting.
"""


@dataclass
class Arch:
    """A file of ``conf/arch``.

    Attributes:
        name: its name.
        comment: the lines of the comment on top: the paper, then how to use it where that needs saying.
        backends: the settings of every backend that has it.
        equal: what ``match=equal`` aims at.
    """

    name: str
    comment: list[str]
    backends: dict[str, dict[str, Any]]
    equal: dict[str, int] = field(default_factory=dict)


def page(conf: Path) -> str:
    """Returns the page as Markdown.

    Args:
        conf: the folder with the configuration groups.

    Raises:
        UserError: a file of an arch says something that has no meaning.
    """
    backends = {_read(path)["name"]: _comment(path) for path in _files(conf / "backend")}
    archs = [_arch(path, backends) for path in _files(conf / "arch")]
    return "".join(
        [
            _introduction(backends, archs),
            _architectures(backends, archs),
            _settings(backends, archs),
            _encoders(conf, backends),
            *(_published(backend) for backend in backends),
        ]
    )


def _introduction(backends: dict[str, list[str]], archs: list[Arch]) -> str:
    lines = [INTRODUCTION, "```"]
    lines += ["python train.py backend=<library> arch=<architecture> encoder=<encoder>", "```", ""]
    for backend, comment in backends.items():
        count = sum(backend in arch.backends for arch in archs)
        text, _, code = " ".join(comment).partition("  ")
        words = f": {text.rstrip(':')}" + f" (`{code.strip()}`)" * bool(code) if text else ""
        lines.append(f"- `backend={backend}` has {count} architecture{'s' * (count != 1)}{words}")
    return "\n".join(lines) + "\n"


def _architectures(backends: Iterable[str], archs: list[Arch]) -> str:
    rows = [
        [f"`{arch.name}`", *(_takes(arch.backends.get(backend)) for backend in backends), _linked(arch.comment)]
        for arch in archs
    ]
    usage = "".join(
        f"\nHow to use `arch={arch.name}`:\n\n```\n" + "\n".join(line.strip() for line in arch.comment[1:]) + "\n```\n"
        for arch in archs
        if arch.comment[1:]
    )
    return "\n## Architectures\n\n" + _table(["arch", *backends, "what it is"], rows) + ENCODER_WORDS + usage


def _settings(backends: Iterable[str], archs: list[Arch]) -> str:
    rows = [
        [
            f"`{arch.name}`",
            ", ".join(f"{key} {arch.equal[key]}" for key in SETTINGS if key in arch.equal),
            *(_offers(arch.backends.get(backend, {})) for backend in backends),
        ]
        for arch in archs
    ]
    return SETTINGS_WORDS + "\n" + _table(["arch", "`match=equal`", *backends], [row for row in rows if any(row[1:])])


def _encoders(conf: Path, backends: Iterable[str]) -> str:
    files = {str(path.relative_to(conf / "encoder").with_suffix("")) for path in _files(conf / "encoder")}
    names = sorted(encoder_names() | {name for name in files if "/" in name})
    timm = [name for name in names if "/" not in name]
    lines = [
        "",
        "## Encoders",
        "",
        f"The installed timm has {len(timm):,} names. Each may carry the tag of its weights (`resnet50.a1_in1k`), and",
        "`-m` with `'encoder=glob(convnext_t*)'` takes all that match. A library's own encoders are for that",
        "library only:",
    ]
    for backend in backends:
        own = [f"`{name}`" for name in names if name.startswith(f"{backend}/")]
        if own:
            lines += _details(f"<code>{backend}/...</code>: {len(own)} encoders", [", ".join(own)])
    return "\n".join(lines) + "\n"


def _published(backend: str) -> str:
    """The configurations that a library publishes, where a module ``<backend>_configs`` lists them."""
    module = f"seggrid.{backend}_configs"
    if find_spec(module) is None:
        return ""
    methods = defaultdict(list)
    for entry in import_module(module).published_configs().values():
        methods[entry.method].append(entry)
    ordered = sorted(methods.items(), key=lambda item: item[0].lower())
    lines = [
        "",
        f"## Published configurations of `{backend}`",
        "",
        f"The library publishes figures for {sum(map(len, methods.values()))} configurations. Each is built as it is,",
        "with your classes in it; the second line starts from its published weights:",
        "",
        "```",
        f"python train.py backend={backend} arch=official arch.config=<name>",
        f"python train.py backend={backend} arch=official arch.config=<name> weights=<name>",
        "```",
        "",
        "Others in the library's package can be named the same way. The mIoU is the library's own figure, with one",
        "scale and no flip; where none stands, something else was measured. What segments nothing is refused in one",
        "line.",
        "",
        _table(
            ["method", "configurations", "data sets"],
            ([method, str(len(entries)), _datasets(entries)] for method, entries in ordered),
        ),
        "The names:",
    ]
    for method, entries in ordered:
        rows = (
            [f"`{entry.config}`", entry.dataset or "", "" if entry.mIoU is None else f"{100 * entry.mIoU:.2f} %"]
            for entry in sorted(entries, key=lambda entry: str(entry.config))
        )
        lines += _details(f"{method} ({len(entries)})", [_table(["name", "data set", "mIoU"], rows).rstrip()])
    return "\n".join(lines) + "\n"


def _datasets(entries: Iterable[Any]) -> str:
    return ", ".join(sorted({entry.dataset for entry in entries if entry.dataset}, key=str.lower))


def _takes(settings: dict[str, Any] | None) -> str:
    """What a backend's column says about an arch."""
    if settings is None:
        return ""
    words = [settings.get("encoders", "any")]
    if "base" in settings and words != ["native"]:
        words.append("native")
    return ", ".join(words) + "; own loss" * (settings.get("loss") == "native")


def _offers(settings: dict[str, Any]) -> str:
    """What a backend's column says about an arch's settings."""
    offered = {**settings.get("names", {}), **settings}
    words = [f"{key} {settings.get(key, '')}".rstrip() for key in SETTINGS if key in offered]
    if "base" in settings:
        words.append(f"from `{settings['base']}`")
    return ", ".join(words)


def _arch(path: Path, backends: Iterable[str]) -> Arch:
    content = _read(path)
    arch = Arch(content["name"], _comment(path), content["backends"], content.get("equal", {}))
    for backend, settings in arch.backends.items():
        if backend not in backends:
            raise UserError(f"{path}: backends.{backend} is no backend; there are {', '.join(backends)}")
        takes = settings.get("encoders", "any")
        if takes not in ENCODERS:
            raise UserError(f"{path}: backends.{backend}.encoders is {takes!r}; it takes one of {', '.join(ENCODERS)}")
    return arch


def _files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.yaml"))


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def _comment(path: Path) -> list[str]:
    """The lines of the comment on top, without their ``# ``."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" "))
    return lines


def _linked(comment: Sequence[str]) -> str:
    first = comment[0].rstrip(".:") if comment else ""
    return re.sub(r"arXiv:([\d.]+\d)", r"[arXiv:\1](https://arxiv.org/abs/\1)", first)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _details(summary: str, lines: list[str]) -> list[str]:
    return ["", f"<details><summary>{summary}</summary>", "", *lines, "", "</details>"]


def main() -> None:
    """Prints the page of the repository's folder that this is called in."""
    conf = Path("conf")
    try:
        if not (conf / "arch").is_dir():
            raise UserError(f"there is no conf/arch here; say {COMMAND} in the repository's folder")
        print(page(conf), end="")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
