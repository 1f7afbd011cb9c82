"""The support matrix says what the configuration says, all of it, and without torch."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from seggrid import matrix, mmseg_configs
from seggrid.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
ARCHS = [yaml.safe_load(file.read_text()) for file in sorted(CONF.glob("arch/*.yaml"))]
BACKENDS = [yaml.safe_load(file.read_text())["name"] for file in sorted(CONF.glob("backend/*.yaml"))]


@pytest.fixture(scope="module")
def page() -> str:
    return matrix.page(CONF)


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(CONF, tmp_path / "conf"))


def _rows(page: str, heading: str) -> dict[str, dict[str, str]]:
    """The first table under a heading: its cells by row and column."""
    lines = page.split(f"\n## {heading}\n", 1)[1].splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("|"))
    stop = next(index for index, line in enumerate(lines) if index > start and not line.startswith("|"))
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:stop])
    assert all(len(row) == len(header) for row in rows)
    return {row[0].strip("`"): dict(zip(header, row, strict=True)) for row in rows}


def test_the_page_is_current(page: str) -> None:
    written = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert written == page, f"docs/models.md is not what conf/ and the libraries say; run {matrix.COMMAND}"


def test_every_arch_is_a_row_and_every_backend_that_has_it_says_what_it_takes(page: str) -> None:
    rows = _rows(page, "Architectures")
    assert list(rows) == sorted(arch["name"] for arch in ARCHS)
    for arch in ARCHS:
        assert rows[arch["name"]]["what it is"]
        for backend in BACKENDS:
            cell, settings = rows[arch["name"]][backend], arch["backends"].get(backend)
            if settings is None:
                assert cell == ""
            else:
                assert cell.partition(",")[0].partition(";")[0] == settings.get("encoders", "any")
                assert cell.endswith("own loss") == (settings.get("loss") == "native")


def test_a_new_arch_appears_with_all_that_its_file_says(conf: Path) -> None:
    first, second = BACKENDS[:2]
    (conf / "arch" / "novel.yaml").write_text(
        "# A Novel Network (arXiv:2501.00001).\n"
        "# say arch=novel\n"
        "name: novel\n"
        "equal: {output_stride: 8, decoder_channels: 96}\n"
        "backends:\n"
        f"  {first}: {{base: novel_r50, encoders: vit, loss: native}}\n"
        f"  {second}: {{output_stride: 16, names: {{decoder_channels: width}}}}\n"
    )
    page = matrix.page(conf)
    row = _rows(page, "Architectures")["novel"]
    assert (row[first], row[second]) == ("vit, native; own loss", "any")
    assert row["what it is"] == "A Novel Network ([arXiv:2501.00001](https://arxiv.org/abs/2501.00001))"
    assert "`arch=novel`:\n\n```\nsay arch=novel\n```" in page
    settings = _rows(page, "Settings")["novel"]
    assert settings["`match=equal`"] == "output_stride 8, decoder_channels 96"
    assert (settings[first], settings[second]) == ("from `novel_r50`", "output_stride 16, decoder_channels")


def test_a_new_backend_is_a_column_with_its_comment(conf: Path) -> None:
    (conf / "backend" / "another.yaml").write_text("# A library:    python train.py backend=another\nname: another\n")
    page = matrix.page(conf)
    assert "- `backend=another` has 0 architectures: A library (`python train.py backend=another`)" in page
    assert {row["another"] for row in _rows(page, "Architectures").values()} == {""}


def test_all_published_configurations_are_there_with_their_figures(page: str) -> None:
    known = mmseg_configs.published_configs().values()
    for entry in known:
        figure = "" if entry.mIoU is None else f"{100 * entry.mIoU:.2f} %"
        assert f"| `{entry.config}` | {entry.dataset} | {figure} |" in page
    assert not [entry.config for entry in known if entry.dataset is None or entry.dataset.startswith("#")]


@pytest.mark.parametrize(
    ("backends", "message"),
    [
        (
            f"{{{BACKENDS[0]}: {{encoders: pyramids}}}}",
            "encoders is 'pyramids'; it takes one of any, pyramid, dilated, vit, native",
        ),
        ("{absent: {}}", "backends.absent is no backend; there are "),
    ],
)
def test_a_file_that_means_nothing_is_refused_in_one_line(backends: str, message: str, conf: Path) -> None:
    (conf / "arch" / "novel.yaml").write_text(f"name: novel\nbackends: {backends}\n")
    with pytest.raises(UserError, match="novel") as error:
        matrix.page(conf)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    done = subprocess.run([sys.executable, "-m", "seggrid.matrix"], cwd=conf.parent, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: {str(error.value).replace(str(conf), 'conf')}\n"


def test_outside_the_repository_it_says_where_to_go(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "seggrid.matrix"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: there is no conf/arch here") and done.stderr.count("\n") == 1


def test_it_imports_no_torch_and_names_no_library() -> None:
    code = (
        "import sys; from pathlib import Path; from seggrid import matrix; matrix.page(Path('conf')); "
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'mmseg', 'timm', 'torchvision'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
    source = Path(matrix.__file__).read_text(encoding="utf-8")
    assert not [backend for backend in BACKENDS if backend in source]
