"""Reports in a real browser: that of the quickstart study, and those with many arms."""

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from regularization.cli.main import main
from regularization.study.analysis.conclusion import Context, draw_conclusion
from regularization.study.config import Study
from regularization.study.report.page import write_report
from regularization.study.results import Result
from tests.conftest import CONFIGS
from tests.study.report.test_figures import with_metrics
from tests.study.report.test_page import many, many_lambdas

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
    if driver is None or chromium is None:
        pytest.skip("needs Chromium and its driver (Debian's chromium and chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


def test_the_quickstart_report_works(browser: Any, capsys: pytest.CaptureFixture[str]) -> None:
    main(["sweep", "--config", str(CONFIGS / "sweeps" / "quickstart.yaml"), "--workers", "2", "--until", "seeds"])
    out = capsys.readouterr().out.splitlines()
    page = Path(next(line for line in out if line.endswith("report.html"))).absolute()

    browser.get(page.as_uri())
    assert browser.find_element("id", "answer").text in " ".join(out)
    # The λ curve, three effects, and three figures by epoch after the heat map of the layers' norms.
    for number in (1, 2, 3, 4, 6, 7, 8):
        traces = browser.find_elements("css selector", f"#plot{number} .scatterlayer .trace")
        assert traces, f"figure {number} is not drawn"
    check_sorting(browser, "trials", column=3)
    check_sorting(browser, "arms", column=1)
    check_columns(browser)
    check_hover(browser)
    check_legend(browser)
    for scheme, color in (("dark", "#e6e9ec"), ("light", "#1d2329")):
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        wait_for(browser, f"return document.getElementById('plot1').layout.font.color == '{color}'")
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    )
    browser.refresh()
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390, (
        "the page scrolls sideways on a phone"
    )
    assert browser.get_log("browser") == []


# The positions of the parts of a figure, in pixels: legend, plot, labels and titles of the axes.
PLACES = """
const box = element => { const {left, right, top, bottom} = element.getBoundingClientRect();
                         return {left, right, top, bottom}; };
return [...document.querySelectorAll(".plot")].map(plot => {
    const all = selector => [...plot.querySelectorAll(selector)].map(box);
    return {page: box(plot), legend: all("g.legend")[0], area: all(".nsewdrag")[0], buttons: all(".modebar")[0],
            labels: all(".ytick text"), titles: all(".g-xtitle, .g-ytitle"), bottom: all(".xtick text")};
});
"""


# Whether the legend of each figure that has one stands above its plot, and whether the table of the arms fits the page.
ROOM = """
return [...document.querySelectorAll(".plot")].every(
    plot => plot.layout && (!plot.layout.showlegend || plot.layout.margin.t > (innerWidth < 600 ? 15 : 45)));
"""
FITS = """
const scroll = document.getElementById("arms").parentElement;
return scroll.scrollWidth <= scroll.clientWidth;
"""


@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("study", [many(25), many(12, long=True), many_lambdas(25)], ids=["25 arms", "long", "25 λ"])
def test_many_arms_and_long_names(
    study: tuple[list[Result], Study, str], width: int, browser: Any, tmp_path: Path
) -> None:
    results, config, baseline = study
    results = with_metrics(results)
    page = write_report(draw_conclusion(results, config, Context(baseline)), results, config, tmp_path, "")
    size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    if width == 1200:
        assert browser.execute_script(FITS), "a column of the arms is not visible"
    # The space for the legend is reserved after the first drawing.
    wait_for(browser, ROOM)
    figures = browser.execute_script(PLACES)
    assert len(figures) >= 2
    for figure in figures:
        legend, area = figure["legend"], figure["area"]
        # A narrow page has no buttons, and small figures have no legend.
        assert (figure["buttons"] is None) == (width < 600)
        if figure["buttons"] is not None:
            assert figure["buttons"]["bottom"] <= (legend or area)["top"] + 1
        assert legend is None or legend["bottom"] <= area["top"] + 1
        assert area["bottom"] - area["top"] > 200
        assert area["right"] - area["left"] > 150
        for part in (*([legend] if legend else []), *figure["titles"], *figure["labels"]):
            assert part["left"] >= figure["page"]["left"] - 1
            assert part["right"] <= figure["page"]["right"] + 1
        title = max(figure["titles"], key=lambda part: part["top"])
        assert max(label["bottom"] for label in figure["bottom"]) <= title["top"] + 1
        rows = sorted(figure["labels"], key=lambda part: part["top"])
        assert all(upper["bottom"] <= lower["top"] + 1 for upper, lower in itertools.pairwise(rows))


def wait_for(browser: Any, condition: str) -> None:
    """Waits until a JavaScript condition is true."""
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(browser, 20).until(lambda _: browser.execute_script(condition), condition)


def check_sorting(browser: Any, table: str, column: int) -> None:
    """A click on a column's header sorts by it in descending order, a second click in ascending order."""

    def values() -> list[float]:
        cells = browser.find_elements("css selector", f"#{table} tbody td:nth-child({column + 1})")
        return [float(cell.get_attribute("data-value")) for cell in cells]

    header = browser.find_element("css selector", f"#{table} th:nth-child({column + 1})")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", header)
    header.click()
    assert values() == sorted(values(), reverse=True)
    assert header.get_attribute("aria-sort") == "descending"
    header.click()
    assert values() == sorted(values())
    assert len(set(values())) > 1


def check_columns(browser: Any) -> None:
    """A column appears when the reader chooses it."""
    header = "#arms th:nth-child({})"
    columns = [cell.get_attribute("textContent") for cell in browser.find_elements("css selector", "#arms th")]
    number = columns.index("corrected") + 1
    assert browser.find_element("css selector", header.format(2)).is_displayed()
    assert not browser.find_element("css selector", header.format(number)).is_displayed()
    chooser = browser.find_element("css selector", "details[data-table=arms]")
    browser.execute_script("arguments[0].open = true; arguments[0].scrollIntoView({block: 'center'})", chooser)
    chooser.find_elements("css selector", "input")[number - 1].click()
    assert browser.find_element("css selector", header.format(number)).is_displayed()


def check_hover(browser: Any) -> None:
    """Pointing at a dot shows its values."""
    from selenium.webdriver import ActionChains

    plot = browser.find_element("id", "plot1")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    points = plot.find_elements("css selector", ".scatterlayer .trace:last-child .points path")
    ActionChains(browser).move_to_element(points[len(points) // 2]).perform()
    wait_for(browser, "return document.querySelector('#plot1 .hoverlayer').textContent.includes('%')")


def check_legend(browser: Any) -> None:
    """A click on an arm in the legend hides its line."""
    plot = browser.find_element("id", "plot6")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    plot.find_element("css selector", ".legend .legendtoggle").click()
    wait_for(browser, "return document.getElementById('plot6').data[0].visible == 'legendonly'")
