"""A comparison as a table of a paper: what LaTeX would choke on is escaped, the best is bold, ties are marked."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from profiled import timed, write_profile, write_training

from seggrid.comparison import report, tables

NASTY = r'a_b & 50% $x$ #1 {y} \input{z} ~ ^ <b> | "q" ? -- [1] *'


def _tex(folder: Path) -> list[str]:
    return (folder / "comparison.tex").read_text(encoding="utf-8").splitlines()


def _body(lines: list[str]) -> list[list[str]]:
    return [line.removesuffix(r" \\").split(" & ") for line in lines if " & " in line and not line.startswith("%")]


def test_the_best_is_bold_the_spread_is_there_and_only_booktabs_is_needed(tmp_path: Path) -> None:
    for seed in range(3):
        write_training(tmp_path / f"u{seed}", 0.6 + seed / 100, seed=seed, overrides=(f"seed={seed}",))
        write_training(tmp_path / f"f{seed}", 0.605 + seed / 100, "fpn", seed=seed, overrides=(f"seed={seed}",))
    write_profile(tmp_path / "p", profile=timed(10.0))
    write_training(tmp_path / "x", 0.1, "failing", status="failed")
    report.compare(tmp_path)
    lines = _tex(tmp_path)
    head, first, second = _body(lines)
    assert head[:3] == ["backend", "arch", "encoder"] and "latency ms" in head and r"mIoU \%" in head
    place = head.index(r"mIoU \%")
    assert (first[1], first[place]) == ("fpn", r"\textbf{61.50} $\pm$ 1.00")
    assert (second[1], second[place]) == ("unet", r"61.00 $\pm$ 1.00$^\dagger$")
    assert lines[-2].startswith(rf"\multicolumn{{{len(head)}}}{{l}}") and "cannot be told apart" in lines[-2]
    assert {re.sub(r"[{ ].*", "", line) for line in lines if line.startswith("\\")} == {
        r"\begin", r"\toprule", r"\midrule", r"\bottomrule", r"\multicolumn", r"\end"
    }  # fmt: skip
    assert "failing" not in "\n".join(lines)


def test_each_data_set_has_a_best_of_its_own(tmp_path: Path) -> None:
    for job, (dataset, score) in enumerate([("hard", 0.3), ("hard", 0.2), ("easy", 0.9)]):
        write_training(tmp_path / str(job), score, f"arch{job}", dataset=dataset)
    report.compare(tmp_path)
    lines = _tex(tmp_path)
    assert [("textbf" in line, re.search(r"arch\d", line)[0]) for line in lines if re.search(r"& arch\d", line)] == [  # type: ignore[index]
        (True, "arch2"), (True, "arch0"), (False, "arch1")
    ]  # fmt: skip
    assert lines.count(r"\midrule") == 2


def test_nothing_that_tex_reads_as_its_own_is_left(tmp_path: Path) -> None:
    shown = tables.escaped(NASTY)
    left = re.sub(r"\\(textbackslash|textasciitilde|textasciicircum|textless|textgreater|textbar)\{\}", "", shown)
    left = re.sub(r"\\[&%$#_{}]", "", left)
    assert not re.search(r"[\\&%$#_~^<>|\"]", left)
    assert left.count("{") == left.count("}") and "--" not in left
    assert tables.escaped("a\nb\t\x00c") == "a b c"
    assert tables.escaped("Ünet 网 ² ﬁ č") == "Ünet ?{} ² fi c"
    for arch in (NASTY, "[x] *"):
        write_training(tmp_path / arch[0], 0.5, arch, backend="[b]", encoder="new\nline")
    report.compare(tmp_path)
    lines = _tex(tmp_path)
    assert len({len(re.findall(r"(?<!\\)&", line)) for line in lines if line.endswith(r"\\")}) == 1
    assert lines[0].startswith("% ") and all(
        line.startswith(("%", "\\", "{[}b]")) or "backend" in line for line in lines
    )


def test_it_compiles(tmp_path: Path) -> None:
    program = shutil.which("pdflatex") or shutil.which("tectonic")
    if program is None:
        pytest.skip("no LaTeX on the PATH")
    write_training(tmp_path / "0", 0.5, NASTY)
    report.compare(tmp_path)
    source = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{comparison.tex}\end{document}"
    (tmp_path / "paper.tex").write_text(source)
    subprocess.run([program, "-halt-on-error", "paper.tex"], cwd=tmp_path, check=True, capture_output=True)
