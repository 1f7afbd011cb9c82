"""The page of a comparison, opened from disk in a real browser."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, sync_playwright
from profiled import counted, timed, write_profile, write_training

from seggrid import image_scores
from seggrid.comparison import report
from seggrid.results import Record

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")
CLASSES = ("sky", "building", "road", "tree", "car <b>")
PALETTE = ((70, 130, 180), (128, 64, 64), (128, 64, 128), (107, 142, 35), (0, 0, 142))
REASON = "needs <= 5 stages & a decoder; <b>segformer</b> has no decoder for <script>alert(1)</script>"
CELLS = (
    ("smp", "deeplabv3plus", "resnet50", 0.7184, 26_678_629, 36.9, 16, 5, 256),
    ("mmseg", "deeplabv3plus", "resnet50", 0.7311, 41_222_757, 176.2, 8, 4, 512),
    ("torchvision", "deeplabv3", "torchvision/resnet50", 0.7052, 39_633_749, 160.9, 8, 4, 256),
    ("smp", "unet", "convnext_tiny.fb_in22k", 0.7266, 32_163_029, 27.1, 4, 5, [256, 128, 64, 32, 16]),
    ("mmseg", "upernet", "convnext_tiny.fb_in22k", 0.7420, 59_245_765, 234.0, 32, 4, 512),
    ("smp", "pspnet", "resnet50", 0.6433, 24_258_117, 8.4, 8, 3, 512),
    ("mmseg", "segformer", "mmseg/mit_b0", 0.6902, 3_716_997, 7.9, 32, 4, 256),
    ("torchvision", "lraspp", "torchvision/mobilenet_v3_large", 0.6120, 3_218_138, 2.0, 16, 4, 128),
    ("mmseg", "bisenetv2", "native", 0.6377, 3_341_957, 12.3, 8, 5, 128),
)


def _mask(rng: np.random.Generator, noise: float) -> Image.Image:
    rows, columns = np.mgrid[0:96, 0:96]
    mask = np.where(rows < 30, 0, np.where(rows > 64, 2, 1))
    mask[(columns - 20) ** 2 + (rows - 45) ** 2 < 300] = 3
    mask[58:74, 50:80] = 4
    coarse = rng.random((12, 12)).repeat(8, 0).repeat(8, 1)
    wrong = rng.integers(0, 5, (12, 12)).repeat(8, 0).repeat(8, 1)
    picture = Image.fromarray(np.where(coarse < noise, wrong, mask).astype(np.uint8))
    picture.putpalette([part for colour in PALETTE for part in colour] + [0] * (251 * 3))
    return picture


def fabricate(folder: Path) -> None:
    """A sweep of eleven cells: nine completed, one skipped, one failed."""
    rng = np.random.default_rng(0)
    environment = {"seggrid": "0.1.0", "python": "3.11.7", "torch": "2.11.0", "device": "a GPU", "git_sha": "0f3c" * 10}
    versions = {"smp": "0.5.0", "torchvision": "0.26.0", "mmseg": "1.2.2"}
    for job, (backend, arch, encoder, score, params, gmacs, stride, depth, width) in enumerate(CELLS):
        ious: list[float | None] = [min(0.99, score + shift) for shift in (0.22, 0.08, 0.17, -0.12, -0.35)]
        if backend == "torchvision":
            ious[4] = None
        overrides = [
            f"backend={backend}",
            f"arch={arch}",
            f"encoder={encoder}",
            "dataset=streets",
            "trainer.max_epochs=40",
        ]
        model: dict[str, Any] = {"params": params, "params_encoder": params // 2, "params_aux": 0, "gmacs": gmacs}
        model |= {"gmacs_aux": 0.0, "input_size": [512, 512], "output_stride": stride, "encoder_depth": depth}
        Record(
            *("train", backend, arch, encoder, "streets", 0),
            status="completed",
            model=model | {"decoder_channels": width},
            train={"epochs": 40, "steps": 3680, "s_per_iter": 0.05 + gmacs / 900, "images_per_s": 80.0,
                   "peak_memory_bytes": int(4e9 + gmacs * 4e7)},
            metrics={"mIoU": score, "mAcc": score + 0.07, "aAcc": score + 0.2, "mDice": score + 0.1, "loss": 0.31},
            per_class=[{"class": name, "iou": iou, "acc": iou, "dice": iou, "pixels": 99}
                       for name, iou in zip(CLASSES, ious, strict=True)],
            environment=environment | {"backend_version": versions[backend]},
            overrides=overrides,
        ).write(folder / str(job))  # fmt: skip
        pictures = folder / str(job) / "predictions"
        pictures.mkdir()
        for number in range(2):
            label = np.asarray(_mask(rng, 0))
            noisy = np.array(PALETTE, np.uint8)[label] // 2 + rng.integers(0, 120, (96, 96, 1), np.uint8)
            Image.fromarray(noisy.astype(np.uint8)).save(pictures / f"street_{number}_image.jpg")
            _mask(rng, 0).save(pictures / f"street_{number}_label.png")
            _mask(rng, 1 - score).save(pictures / f"street_{number}_prediction.png")
    for job, (arch, status, reason) in enumerate(
        [("segformer", "skipped", REASON), ("unet", "failed", "CUDA out of memory: tried to allocate 3.2 GiB")], start=9
    ):
        Record(
            *("train", "torchvision", arch, "resnet50", "streets", 0),
            status=status,
            error={"type": "UserError", "message": reason},
            environment=environment | {"backend_version": "0.26.0"},
            overrides=["backend=torchvision", f"arch={arch}", "dataset=streets", "trainer.max_epochs=40"],
        ).write(folder / str(job))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> report.Comparison:
    folder = tmp_path_factory.mktemp("sweep")
    fabricate(folder)
    return report.compare(folder)


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> report.Comparison:
    """The sweep with profiles of five of its cells, one of them noisy and without an encoder to time."""
    folder = tmp_path_factory.mktemp("profiled")
    fabricate(folder)
    for job, (backend, arch, encoder, _, params, gmacs, stride, depth, width) in enumerate(CELLS[:5]):
        model = counted(params, gmacs, params_encoder=params // 2, output_stride=stride, encoder_depth=depth)
        profile = timed(4 + gmacs / 4, spread=0.3 if job == 1 else 0.05)
        profile["stages_ms"]["data"] = 40.0 if job == 0 else None
        if job == 1:
            profile["stages_ms"]["encoder"] = None
        published = {"params": 1.25 * params, "note": "<b>other classes</b>", "source": "a paper"} if job == 2 else None
        write_profile(
            folder / f"p{job}",
            arch,
            **{"backend": backend, "encoder": encoder, "published": published, "profile": profile},
            model=model | {"decoder_channels": width},
        )
    return report.compare(folder)


@pytest.fixture(scope="module")
def costs(browser: Browser, profiled: report.Comparison) -> Iterator[Page]:
    complaints: list[str] = []
    page = _open(browser, profiled, complaints)
    yield page
    page.close()
    assert complaints == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if path is None:
        pytest.skip(f"no Chromium on the PATH (looked for {', '.join(CHROMIUMS)})")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu", *QUIET])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page(browser: Browser, sweep: report.Comparison) -> Iterator[Page]:
    complaints: list[str] = []
    page = _open(browser, sweep, complaints)
    yield page
    page.close()
    assert complaints == []


def _open(
    browser: Browser, comparison: report.Comparison, complaints: list[str], address: str = "", **options: Any
) -> Page:
    """The page, with every console message, error and request to an address noted in ``complaints``."""
    page = browser.new_page(viewport={"width": 1360, "height": 900}, **options)
    page.on("console", lambda message: complaints.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith(("file:", "data:", "blob:"))
            else complaints.append(f"request: {request.url[:200]}")
        ),
    )
    page.goto(comparison.paths["html"].as_uri() + address)
    _wait(page)
    return page


def _wait(page: Page) -> None:
    page.wait_for_selector("#parts[aria-busy=false]")


def _seen(page: Page, part: str) -> Locator:
    """A part of the page, which is drawn when it comes into sight."""
    section = page.locator(f"#part-{part}")
    section.scroll_into_view_if_needed()
    page.wait_for_selector(f"#part-{part}:not(.undrawn)")
    _wait(page)
    return section


def _filter(page: Page, words: str) -> None:
    page.locator("#words").fill(words)
    _wait(page)


def _column(page: Page, head: str) -> list[str]:
    """The texts of a column of the results, from top to bottom."""
    heads = [text.strip() for text in page.locator("#results thead th").all_inner_texts()]
    return page.locator(f"#results tbody tr td:nth-child({heads.index(head) + 1})").all_inner_texts()


def _sorted(page: Page, head: str) -> str | None:
    return page.locator("#results thead th").filter(has_text=re.compile(f"^{head}$")).get_attribute("aria-sort")


def test_predictions_of_other_images_are_not_side_by_side(tmp_path: Path) -> None:
    """A picture is named for its place in the split: the first of another split is another picture."""
    for job, key in enumerate(("town", "town", "village")):
        write_training(tmp_path / str(job), 0.6 - job / 10, f"arch{job}")
        (tmp_path / str(job) / "predictions").mkdir()
        for kind in ("prediction", "label"):
            Image.new("P", (4, 4)).save(tmp_path / str(job) / "predictions" / f"00000_{kind}.png")
        counts = torch.ones(1, 3, 2, dtype=torch.int64)
        image_scores.write(tmp_path / str(job) / "images.npz", [key], counts)
    text = report.compare(tmp_path).paths["html"].read_text(encoding="utf-8")
    heads = re.findall(r"<h[34]>(.*?)</h[34]>", text)
    assert heads == ["streets", "town", "streets, other images or labels", "village"]
    rows = text.split('<div class="pictures">')[1:]
    assert [re.findall(r'data-cells="(\d)"', row.split("</section>")[0]) for row in rows] == [["0", "1"], ["2"]]


def test_the_page_names_no_address_to_load_from(sweep: report.Comparison) -> None:
    text = re.sub(r"<script>.*?</script>", "", sweep.paths["html"].read_text(encoding="utf-8"), flags=re.DOTALL)
    assert not re.search(r"(src|href|url)\s*[=(]\s*[\"']?(?!data:)\w*:?//", text)
    assert "default-src 'none'" in text


def test_names_and_reasons_are_escaped(sweep: report.Comparison) -> None:
    text = sweep.paths["html"].read_text(encoding="utf-8")
    assert "<b>segformer" not in text
    assert "alert(1)</script>" not in text
    assert "car <b>" not in text


@pytest.mark.browser
def test_without_a_completed_run_a_sentence_stands_for_the_plots(browser: Browser, tmp_path: Path) -> None:
    Record("train", "smp", "unet", "resnet18", "streets", 0, status="skipped", error={"message": "no"}).write(tmp_path)
    comparison = report.compare(tmp_path)
    assert comparison.paths["html"].stat().st_size < 120_000  # nothing to plot: plotly's four megabytes stay out
    complaints: list[str] = []
    page = _open(browser, comparison, complaints)
    assert "No run has an mIoU or a profile to plot." in page.locator("main").inner_text()
    assert page.locator("h2").all_inner_texts() == ["Results", "Without a result", "Environment and commands"]
    page.close()
    assert complaints == []


@pytest.mark.browser
def test_opens_from_disk_quietly_and_names_the_winner(page: Page, sweep: report.Comparison) -> None:
    page.wait_for_timeout(300)  # late requests would show in the fixture's complaints
    assert page.locator("h1").inner_text() == "Segmentation models on streets"
    assert page.locator(".verdict").inner_text() == sweep.verdict
    assert page.locator("#results tr.winner td:nth-child(3)").inner_text() == "upernet"
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.browser
def test_the_complaints_would_be_noticed(browser: Browser, sweep: report.Comparison) -> None:
    complaints: list[str] = []
    page = _open(browser, sweep, complaints)
    page.evaluate("fetch('http://127.0.0.1:9/x').catch(() => null)")
    page.evaluate("console.error('seen')")
    page.wait_for_timeout(100)
    page.close()
    assert any("seen" in text for text in complaints)
    assert any("Content Security Policy" in text for text in complaints)


@pytest.mark.browser
def test_sorts_by_a_click_numbers_as_numbers_and_empties_last(page: Page) -> None:
    page.reload()
    _wait(page)
    scores = [f"{100 * score:.2f}" for score in sorted((cell[3] for cell in CELLS), reverse=True)]
    assert _sorted(page, "mIoU %") == "descending"
    assert _column(page, "mIoU %") == [*scores, "failed", "skipped"]
    page.get_by_role("button", name="mIoU %").click()
    _wait(page)
    assert _sorted(page, "mIoU %") == "ascending"
    assert _column(page, "mIoU %") == [*scores[::-1], "failed", "skipped"]
    page.get_by_role("button", name="GMac").click()
    _wait(page)
    gmacs = sorted(cell[5] for cell in CELLS)
    assert _column(page, "GMac") == [*(f"{value:.2f}" for value in gmacs), "", ""]
    assert _sorted(page, "mIoU %") is None
    assert page.locator("#results [aria-sort]").count() == 1


@pytest.mark.browser
def test_sorts_by_the_keyboard(page: Page) -> None:
    page.get_by_role("button", name="#").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    _wait(page)
    archs = _column(page, "arch")
    assert _sorted(page, "arch") == "ascending"
    assert archs == sorted(archs)
    page.keyboard.press("Space")
    _wait(page)
    assert _sorted(page, "arch") == "descending"
    assert _column(page, "arch") == sorted(archs, reverse=True)


@pytest.mark.browser
def test_plots_hold_every_completed_cell(page: Page) -> None:
    _seen(page, "scatter")
    points = page.locator("#plot-scatter-0 .scatterlayer .points path")
    assert points.count() == len(CELLS)
    names = set(page.locator("#plot-scatter-0 .legendtext").all_text_contents())
    assert names == {"smp", "torchvision", "mmseg", "Pareto front"}
    points.first.hover(force=True)
    hover = page.locator("#plot-scatter-0 .hoverlayer").text_content() or ""
    assert "mmseg / upernet / convnext_tiny.fb_in22k" in hover
    assert "% mIoU" in hover and "GMac" in hover


@pytest.mark.browser
def test_classes_have_their_values_and_what_is_absent_is_said(page: Page) -> None:
    _seen(page, "classes")
    assert page.locator("#classes-0 thead th").all_inner_texts() == list(CLASSES)
    texts = page.locator("#classes-0 tbody td").all_inner_texts()
    assert len(texts) == len(CELLS) * len(CLASSES)
    assert texts.count("n/a") == 2  # torchvision's two completed cells
    assert texts[0] == "96.2"  # the best cell's sky


@pytest.mark.browser
def test_only_sections_with_data_appear(page: Page, costs: Page) -> None:
    costly = ["Latency", "Throughput", "Where the time of a training step goes", "Peak memory", "GMac"]
    heads = costs.locator("h2").all_inner_texts()
    assert [head for head in heads if head in costly] == costly
    assert "Published and measured" in heads
    assert not {*costly, "Published and measured", "Learning curves"} & set(page.locator("h2").all_inner_texts())


def _chosen_axes(page: Page, x: str, y: str = "mIoU") -> Locator:
    """The points of the scatter over these axes."""
    _seen(page, "scatter")
    page.locator("#y").select_option(y)
    page.locator("#x").select_option(x)
    _wait(page)
    return page.locator("#plot-scatter-0 .scatterlayer .points path")


@pytest.mark.browser
def test_the_axes_can_be_chosen_and_an_axis_of_many_sizes_is_logarithmic(costs: Page) -> None:
    assert costs.locator("#x").input_value() == "latency_ms_median"
    for key, points in (("params", len(CELLS)), ("gmacs", len(CELLS)), ("latency_ms_median", 5)):
        assert _chosen_axes(costs, key).count() == points, key
    assert costs.locator("#plot-scatter-0 .errorbar").count() == 5
    assert "latency of one image" in (costs.locator("#plot-scatter-0 .xtitle").text_content() or "")
    _chosen_axes(costs, "params", "gmacs")
    assert costs.locator("#ylog").is_checked()
    before = costs.locator("#plot-scatter-0 .ytick text").all_text_contents()
    costs.locator("#ylog").uncheck()
    _wait(costs)
    assert costs.locator("#plot-scatter-0 .ytick text").all_text_contents() != before
    _chosen_axes(costs, "latency_ms_median")


@pytest.mark.browser
def test_the_pareto_front_is_that_of_the_cells_shown(page: Page) -> None:
    points = {cell[:3]: (cell[5], cell[3]) for cell in CELLS}

    def front(cells: dict[tuple[str, ...], tuple[float, float]]) -> list[str]:
        best = [
            cell
            for cell, (cost, score) in cells.items()
            if not any(other[0] <= cost and other[1] >= score for it, other in cells.items() if it != cell)
        ]
        return [" / ".join(cell) for cell in sorted(best, key=lambda cell: cells[cell][0])]

    _chosen_axes(page, "gmacs")
    named = page.locator("#part-scatter .members li")
    assert [text.rsplit(" ", 5)[0] for text in named.all_inner_texts()] == front(points)
    marked = sum("GMac" in text for text in _column(page, "Pareto front"))
    assert marked == len(front(points)) < len(CELLS)
    _filter(page, "resnet50")
    fewer = {cell: point for cell, point in points.items() if "resnet50" in cell[2]}
    assert [text.rsplit(" ", 5)[0] for text in named.all_inner_texts()] == front(fewer)
    assert sum("GMac" in text for text in _column(page, "Pareto front")) == len(front(fewer))
    _filter(page, "")


@pytest.mark.browser
def test_latency_shows_every_sample_also_the_outliers(costs: Page) -> None:
    _seen(costs, "latency")
    assert costs.locator("#plot-latency .scatterlayer .trace").first.locator(".points path").count() == 5 * 22
    assert costs.locator("#plot-latency .errorbar").count() == 5
    inside = """all => {
        const frame = document.querySelector("#plot-latency .nsewdrag").getBoundingClientRect();
        const boxes = all.map((one) => one.getBoundingClientRect());
        return boxes.every((box) => box.left >= frame.left - 5 && box.right <= frame.right + 5);
    }"""
    assert costs.locator("#plot-latency .scatterlayer .points path").evaluate_all(inside)
    names = costs.locator("#plot-latency .ytick text").all_text_contents()
    assert [name.strip() for name in names][:2] == [
        "mmseg / upernet / convnext_tiny.fb_in22k",
        "mmseg / deeplabv3plus / resnet50",
    ]


@pytest.mark.browser
def test_lines_and_bars_hold_what_was_measured(costs: Page) -> None:
    for part in ("throughput", "stages", "memory", "gmacs"):
        _seen(costs, part)
    lines = costs.locator("#plot-throughput .scatterlayer .trace")
    assert [lines.nth(place).locator(".points path").count() for place in range(lines.count())] == [4] * 5
    stages = costs.locator("#plot-stages .legendtext").all_text_contents()
    assert stages == ["encoder", "decoder", "loss", "backward", "optimizer", "data, in one process"]
    boxes = costs.locator("#plot-stages .barlayer .trace").evaluate_all(
        "all => all.map((one) => [...one.querySelectorAll('.point path')].map((bar) => bar.getBoundingClientRect()))"
    )
    making = max((box for box in boxes[-1]), key=lambda box: box["width"])
    starts = {round(box["left"]) for box in boxes[0] if box["width"]}
    assert {round(making["left"])} == starts  # it starts where the step does, not behind it
    assert "the decoder is the whole forward pass" in costs.locator("main").inner_text()
    assert costs.locator("#plot-memory .bars .point").count() == 2 * 5
    figures = costs.locator("#plot-gmacs .bartext").all_text_contents()
    assert sorted(figures) == sorted(f"{cell[5]:.2f}" for cell in CELLS[:5])


@pytest.mark.browser
def test_published_figures_have_their_difference_and_their_reason(costs: Page) -> None:
    (row,) = costs.locator("#published tbody tr").all()
    texts = [text.strip() for text in row.locator("td").all_inner_texts()]
    cell = "torchvision / deeplabv3 / torchvision/resnet50"
    assert texts == [f"{cell}\n\n<b>other classes</b>; source: a paper", "39.634", "49.542", "-20.00"]
    assert row.locator("b").count() == 0


@pytest.mark.browser
def test_pictures_are_there_and_their_colours_named(page: Page) -> None:
    _seen(page, "predictions")
    pictures = page.locator(".pictures img")
    assert pictures.count() == 2 * (2 + len(CELLS))
    assert pictures.evaluate_all("all => all.every((one) => one.complete && one.naturalWidth === 96)")
    assert pictures.first.evaluate("one => one.clientWidth") >= 150
    assert page.locator(".pictures").first.locator("figcaption").all_inner_texts()[:3] == [
        "image", "label", "mmseg / upernet / convnext_tiny.fb_in22k"
    ]  # fmt: skip
    assert page.locator("#part-predictions .legend li").all_inner_texts() == list(CLASSES)
    shown = page.locator("#part-predictions .swatch").evaluate_all(
        "all => all.map((one) => getComputedStyle(one).backgroundColor)"
    )
    assert shown == [f"rgb({red}, {green}, {blue})" for red, green, blue in PALETTE]


@pytest.mark.browser
def test_reasons_show_as_they_were_written(page: Page) -> None:
    assert REASON in _seen(page, "failures").inner_text()
    assert page.locator(".reasons b").count() == 0


@pytest.mark.browser
def test_dark_and_light_differ_and_both_are_readable(browser: Browser, profiled: report.Comparison) -> None:
    seen = set()
    for scheme in ("light", "dark"):
        complaints: list[str] = []
        page = _open(browser, profiled, complaints, color_scheme=scheme)
        paper = _luminance(page, "body", "backgroundColor")
        for part in ("scatter", "stages", "gmacs"):
            _seen(page, part)
        axes = [(selector, "fill") for selector in (".xtick text", ".xtitle", ".bartext", "#plot-stages .legendtext")]
        for selector, style in (("body", "color"), (".note", "color"), *axes):
            ink = _luminance(page, selector, style)
            assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= 4.5, (scheme, selector)
        seen.add(paper)
        page.close()
        assert complaints == []
    assert len(seen) == 2


def _luminance(page: Page, selector: str, style: str) -> float:
    text = page.locator(selector).first.evaluate(f"one => getComputedStyle(one).{style}")
    parts = [int(part) / 255 for part in re.findall(r"\d+", text)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.browser
def test_making_data_is_a_bar_beside_that_of_the_step(costs: Page) -> None:
    _seen(costs, "stages")
    traces = costs.evaluate(
        "by('plot-stages').data.map(({ name, width, x, y }) => ({ name, width, x: [...x], y: [...y] }))"
    )
    data = traces.pop()
    assert data["name"] == "data, in one process"
    assert sorted(data["x"]) == [0, 0, 0, 0, 40]
    for trace in traces:  # bars at one place are stacked: these share none, and do not touch
        assert trace["y"] == [0, 1, 2, 3, 4]
        for step, beside in zip(trace["y"], data["y"], strict=True):
            assert abs(step - beside) >= (trace["width"] + data["width"]) / 2


@pytest.mark.browser
def test_what_memory_is_without_is_said_and_of_whom_it_is_not_known(browser: Browser, tmp_path: Path) -> None:
    said = "Without what the process held before the model was built."
    complaints: list[str] = []
    for bases, text in (((2**29, None), f"{said} That is not known of smp / fpn / resnet18."), ((0, 0), "")):
        for job, (arch, base) in enumerate(zip(("unet", "fpn"), bases, strict=True)):
            more = {} if base is None else {"base_memory_bytes": base}
            write_profile(tmp_path / str(job), arch, profile=timed(10.0 * (job + 1), **more))
        page = _open(browser, report.compare(tmp_path), complaints)
        _seen(page, "memory")
        assert page.locator("#part-memory .note").all_inner_texts() == ([text] if text else [])
        page.close()
    assert complaints == []
