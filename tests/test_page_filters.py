"""A page of many cells in a real browser: filters, keyboard, shared views, paper, and how quick it is."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from many_cells import write_many
from playwright.sync_api import Browser, Page
from profiled import write_training
from test_page import _column, _filter, _open, _seen, _wait
from test_page import browser as browser  # a fixture

from seggrid.comparison import page as pages
from seggrid.comparison import report

CELLS = 45
HYDRA = """hydra:
  job: {name: train}
  overrides:
    hydra: [hydra.mode=MULTIRUN, hydra.sweep.dir=a folder]
    task: ["arch=unet,fcn", "seed=0,1"]
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> report.Comparison:
    """45 cells of two seeds, two of them without a result, the best two tied."""
    folder = tmp_path_factory.mktemp("many")
    write_many(folder, CELLS, seeds=2, pictures=3)
    (folder / "multirun.yaml").write_text(HYDRA)
    comparison = report.compare(folder)
    comparison.cells[1].tied = True
    comparison.cells[0].interval = (0.6, 0.7)
    comparison.paths["html"].write_text(pages.render(comparison), encoding="utf-8")
    return comparison


@pytest.fixture(scope="module")
def opened(browser: Browser, many: report.Comparison) -> Iterator[Page]:
    complaints: list[str] = []
    page = _open(browser, many, complaints)
    yield page
    page.close()
    assert complaints == []


@pytest.fixture
def page(opened: Page) -> Page:
    opened.evaluate("update(FIRST)")
    opened.evaluate("scrollTo(0, 0)")
    _wait(opened)
    return opened


def _shown(page: Page) -> int:
    return int(re.findall(r"\d+", page.locator("#count").inner_text())[0])


def _choose(page: Page, facet: str, value: str) -> None:
    page.locator(f".facet[data-key={facet}] summary").click()
    page.locator(f".facet[data-key={facet}] input[value={value}]").check()
    page.keyboard.press("Escape")
    _wait(page)


@pytest.mark.browser
def test_a_row_stands_for_the_seeds_of_a_cell_and_says_their_spread(page: Page, many: report.Comparison) -> None:
    best = many.cells[0]
    assert best.score is not None and best.spread is not None
    assert _column(page, "mIoU %")[0] == f"{100 * best.score:.2f} ± {100 * best.spread:.2f} (2)"
    assert _column(page, "95 % interval")[0].startswith("60.0 to 70.0")
    assert _column(page, "#")[:3] == ["1", "2tied", "3"]
    assert "cannot be told apart from the best" in page.locator("#part-results .note").inner_text()
    _seen(page, "scatter")
    assert page.locator("#plot-scatter-0 .yerror").count() > 0


@pytest.mark.browser
def test_a_filter_acts_on_every_part(page: Page, many: report.Comparison) -> None:
    mine = [cell for cell in many.cells if cell.runs[0].record.backend == "smp"]
    _choose(page, "backend", "smp")
    assert _shown(page) == len(mine) == page.locator("#results tbody tr").count()
    assert set(_column(page, "backend")) == {"smp"}
    _seen(page, "scatter")
    assert set(page.locator("#plot-scatter-0 .legendtext").all_text_contents()) == {"smp", "Pareto front"}
    _seen(page, "classes")
    completed = [cell for cell in mine if cell.score is not None]
    assert page.locator("#classes-0 tbody tr").count() == len(completed)
    _seen(page, "curves")
    assert all("smp" in text for text in page.locator("#part-curves .legend li").all_inner_texts())
    _seen(page, "latency")
    assert all("smp" in text for text in page.locator("#plot-latency .ytick text").all_text_contents())
    _seen(page, "predictions")
    captions = page.locator(".pictures").first.locator("figure:visible figcaption").all_inner_texts()
    assert captions[:2] == ["image", "label"] and len(captions) > 2
    assert all("smp" in text for text in captions[2:])
    assert "None of the cells shown has this." in page.locator("#part-libraries").inner_text()


@pytest.mark.browser
def test_words_search_names_reasons_and_status(page: Page) -> None:
    for words in ("unet resnet0", "UNET  RESNET0"):
        _filter(page, words)
        assert set(_column(page, "arch")) == {"unet", "unetplusplus"}
        assert set(_column(page, "encoder")) == {"resnet0"}
    _filter(page, "pyramid of features")
    assert 0 < _shown(page) < 5
    _filter(page, "no such cell")
    assert _shown(page) == 0
    assert page.locator("#results tbody tr").count() == 0


@pytest.mark.browser
def test_the_view_stands_in_the_address_and_is_there_again(
    page: Page, browser: Browser, many: report.Comparison
) -> None:
    _choose(page, "backend", "mmseg")
    _filter(page, "resnet0")
    page.locator("#results").get_by_role("button", name="GMac").click()
    page.locator("#x").select_option("params")
    _wait(page)
    address = page.evaluate("location.hash")
    for part in ("backend=mmseg", "words=resnet0", "sort=gmacs", "x=params"):
        assert part in address
    complaints: list[str] = []
    other = _open(browser, many, complaints, address)
    assert _column(other, "arch") == _column(page, "arch")
    assert other.locator("#x").input_value() == "params"
    assert other.locator("#words").input_value() == "resnet0"
    other.locator("#reset").click()
    _wait(other)
    assert other.evaluate("location.hash") == ""
    assert _shown(other) == len(many.cells)
    other.close()
    broken = _open(browser, many, complaints, "#x=nothing&backend=&over=%ff&sort=a:b")
    assert broken.locator("#x").input_value() == "latency_ms_median"
    broken.close()
    assert complaints == []


@pytest.mark.browser
def test_the_line_of_a_front_claims_nothing_that_no_cell_reaches(page: Page) -> None:
    """Of images a second more is better: a step that rises first would promise the next score at this cell's speed."""
    page.locator("#x").select_option("profile_images_per_s")
    _seen(page, "scatter")
    corners = page.evaluate("""
        () => {
          const plot = document.querySelector("#plot-scatter-0");
          const front = plot.data.find((trace) => trace.name === "Pareto front");
          const steps = plot.querySelector(".js-line").getAttribute("d").match(/[HV]/g).join("");
          return { steps, x: front.x, y: front.y };
        }
    """)
    assert corners["x"] == sorted(corners["x"], reverse=True) and corners["y"] == sorted(corners["y"])
    assert len(corners["x"]) > 2
    assert corners["steps"] == "HV" * (len(corners["x"]) - 1)  # along at its own score, and only there up


@pytest.mark.browser
def test_sorting_by_the_fronts_knows_the_cells_that_are_shown(page: Page) -> None:
    page.locator("#results").get_by_role("button", name="Pareto front").click()
    for words in ("resnet0", "resnet1", ""):
        _filter(page, words)
        marks = _column(page, "Pareto front")
        marked = [mark for mark in marks if mark]
        assert marked and marks == marked + [""] * (len(marks) - len(marked)), words  # what has none is last
    page.locator("#words").blur()


@pytest.mark.browser
def test_a_slash_goes_to_the_filter_and_escape_clears_it(page: Page) -> None:
    page.keyboard.press("/")
    page.keyboard.type("fcn/")
    assert page.locator("#words").input_value() == "fcn/"
    page.keyboard.press("Escape")
    assert page.locator("#words").input_value() == ""
    page.locator(".facet summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator(".facet[open]").count() == 1
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert _shown(page) < CELLS
    page.keyboard.press("Escape")
    assert page.locator(".facet[open]").count() == 0
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    assert outline == "solid"


@pytest.mark.browser
def test_sorting_leaves_the_table_where_it_was_scrolled_to(page: Page) -> None:
    page.set_viewport_size({"width": 700, "height": 800})
    head = page.locator("#results").get_by_role("button", name="checkpoint")
    head.click()
    _wait(page)
    assert page.locator("#part-results .wide").evaluate("one => one.scrollLeft") > 100
    assert head.evaluate("one => one === document.activeElement")
    values = [float(text) for text in _column(page, "checkpoint MiB") if text]
    assert values == sorted(values)
    page.set_viewport_size({"width": 1360, "height": 900})


@pytest.mark.browser
def test_libraries_stand_side_by_side_and_what_differs_is_marked(page: Page) -> None:
    rows = _seen(page, "libraries").locator("tbody tr")
    assert rows.first.inner_text().strip() == "lraspp / resnet0" or " / " in rows.first.inner_text()
    group = [rows.nth(place).locator("td").first.inner_text() for place in (1, 2, 3)]
    assert len({text.split(" ")[0] for text in group}) == 3
    marked = rows.nth(1).locator(".differs").all_inner_texts()
    assert set(marked) <= {"8", "16", "256", "512"} and len(marked) == 2


@pytest.mark.browser
def test_curves_go_over_epochs_or_seconds(page: Page) -> None:
    _seen(page, "curves")
    assert page.locator("#plot-curves-miou .scatterlayer .trace").count() == 20  # the seeds and the mean of ten cells
    assert page.locator("#plot-curves-loss .scatterlayer .trace").count() == 40
    ticks = page.locator("#plot-curves-miou .xtick text").all_text_contents()
    page.locator("#over").select_option("seconds")
    _wait(page)
    assert page.locator("#plot-curves-miou .xtick text").all_text_contents() != ticks
    assert "The best 10 of" in page.locator("#part-curves").inner_text()


@pytest.mark.browser
def test_pictures_on_which_cells_differ_most_stand_first(page: Page) -> None:
    section = _seen(page, "predictions")
    heads = [text.split()[0] for text in section.locator("h4").all_inner_texts()]
    assert heads == ["town_2", "town_1", "town_0"]
    assert "the best 24 of" in section.inner_text()
    first = section.locator(".pictures").first.locator("figure:visible")
    assert first.count() == 2 + 12
    section.get_by_role("button", name="Show all 24 predictions").click()
    _wait(page)
    assert first.count() == 2 + 24


@pytest.mark.browser
def test_a_reason_stands_once_with_its_cells(page: Page, many: report.Comparison) -> None:
    section = _seen(page, "failures")
    reasons = [text.splitlines()[0] for text in section.locator("dt").all_inner_texts()]
    assert len(reasons) == len(set(reasons))
    for cell in many.cells:
        assert cell.runs[0].record.status == "completed" or cell.label in section.inner_text()


@pytest.mark.browser
def test_the_command_of_the_sweep_can_be_copied(page: Page) -> None:
    section = _seen(page, "runs")
    command = "python train.py -m arch=unet,fcn seed=0,1 'hydra.sweep.dir=a folder'"
    assert section.locator(".command code").inner_text() == command
    section.locator(".command .copy").click()
    assert section.locator(".command .copy").inner_text() == "copied"
    assert page.evaluate("getSelection().toString()") == command


@pytest.mark.browser
def test_paper_has_everything_and_nothing_runs_over_its_edge(page: Page) -> None:
    page.set_viewport_size({"width": 1036, "height": 760})
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.locator(".bar").is_hidden()
    assert page.locator("section.undrawn").count() == 0
    assert page.locator("#libraries tbody tr").count() > 40  # also what the window keeps behind a button
    wide = "all => all.filter((one) => one.getBoundingClientRect().right > innerWidth + 1).map((one) => one.id)"
    assert page.locator("table, .plot, .pictures").evaluate_all(wide) == []
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.set_viewport_size({"width": 1360, "height": 900})
    _seen(page, "libraries")
    assert page.locator("#libraries tbody tr").count() == 40


@pytest.mark.browser
def test_a_narrow_window_does_not_scroll_sideways(browser: Browser, many: report.Comparison) -> None:
    complaints: list[str] = []
    page = _open(browser, many, complaints)
    page.set_viewport_size({"width": 400, "height": 800})
    for part in ("scatter", "classes", "curves", "latency", "predictions", "runs"):
        _seen(page, part)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.close()
    assert complaints == []


@pytest.mark.browser
def test_of_many_classes_and_long_names_the_heat_map_keeps_all_in_sight(browser: Browser, tmp_path: Path) -> None:
    for job, classes in enumerate((20, 120)):
        entries = [{"class": f"class {index}", "iou": 0.5} for index in range(classes)]
        write_training(tmp_path / str(job), 0.6, "a" * 180, dataset=f"data {job}", per_class=entries)
    complaints: list[str] = []
    page = _open(browser, report.compare(tmp_path), complaints)
    page.set_viewport_size({"width": 400, "height": 800})
    _seen(page, "classes")
    for table in ("#classes-0", "#classes-1"):  # the name is whole in a title, and leaves the classes their room
        name = page.locator(f"{table} tbody th").first
        assert name.evaluate("(one) => one.offsetWidth") < 160 and "a" * 180 in str(name.get_attribute("title"))
    page.set_viewport_size({"width": 1036, "height": 760})
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    ends = page.locator(".heat thead th").evaluate_all("all => all.map((one) => one.getBoundingClientRect().right)")
    assert len(ends) == 140 and max(ends) <= 1036 + 1
    page.close()
    assert complaints == []


@pytest.mark.browser
def test_the_theme_can_be_turned(page: Page) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.locator("#theme").click()
    assert page.evaluate(paper) != light
    assert page.locator("#theme").inner_text() == "Light"
    page.locator("#theme").click()
    assert page.evaluate(paper) == light


@pytest.mark.slow
@pytest.mark.browser
def test_a_thousand_cells_are_filtered_within_a_second(browser: Browser, tmp_path: Path) -> None:
    write_many(tmp_path, 1000, classes=20)
    comparison = report.compare(tmp_path)
    assert comparison.paths["html"].stat().st_size < 20 * 2**20
    complaints: list[str] = []
    page = _open(browser, comparison, complaints)
    took = page.evaluate(
        """() => new Promise((done) => {
            const start = performance.now();
            update({ words: "unet" });
            const look = () => by("parts").ariaBusy === "false" ? done(performance.now() - start) : setTimeout(look, 5);
            look();
        })"""
    )
    assert _shown(page) == sum("unet" in cell.label for cell in comparison.cells)
    assert took < 1000
    page.close()
    assert complaints == []
