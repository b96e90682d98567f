"""The quickstart study, and its report opened in a real browser."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from regularization.cli.main import main
from tests.conftest import CONFIGS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
    if driver is None or chromium is None:
        pytest.skip("needs Chromium and its driver (Debian's chromium and chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


def test_the_quickstart_ends_with_a_report_that_works(browser: Any, capsys: pytest.CaptureFixture[str]) -> None:
    main(["sweep", "--config", str(CONFIGS / "sweeps" / "quickstart.yaml"), "--workers", "2"])
    out = capsys.readouterr().out.splitlines()
    page = Path(next(line for line in out if line.endswith("report.html"))).absolute()

    browser.get(page.as_uri())
    assert browser.find_element("id", "answer").text in " ".join(out)
    for place in (1, 2, 3, 4):
        assert browser.find_elements("css selector", f"#plot{place} .scatterlayer .trace"), f"figure {place} is drawn"
    sorts(browser, "trials", column=3)
    sorts(browser, "arms", column=1)
    hovers(browser)
    hides_an_arm(browser)
    for dark in ("dark", "light"):
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": dark}]}
        )
        wanted = "#e6e9ec" if dark == "dark" else "#1d2329"
        comes(browser, f"return document.getElementById('plot1').layout.font.color == '{wanted}'")
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    )
    browser.refresh()
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390, (
        "no sideways scrolling on a phone"
    )
    assert browser.get_log("browser") == []


def comes(browser: Any, condition: str) -> None:
    """What the page shows a moment later."""
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(browser, 20).until(lambda _: browser.execute_script(condition), condition)


def sorts(browser: Any, table: str, column: int) -> None:
    """A click on a column's head sorts by it, downwards and then upwards."""

    def values() -> list[float]:
        cells = browser.find_elements("css selector", f"#{table} tbody td:nth-child({column + 1})")
        return [float(cell.get_attribute("data-value")) for cell in cells]

    head = browser.find_element("css selector", f"#{table} th:nth-child({column + 1})")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", head)
    head.click()
    assert values() == sorted(values(), reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    head.click()
    assert values() == sorted(values())
    assert len(set(values())) > 1


def hovers(browser: Any) -> None:
    """The mouse over a point shows what it is."""
    from selenium.webdriver import ActionChains

    plot = browser.find_element("id", "plot1")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    points = plot.find_elements("css selector", ".scatterlayer .trace:last-child .points path")
    ActionChains(browser).move_to_element(points[len(points) // 2]).perform()
    comes(browser, "return document.querySelector('#plot1 .hoverlayer').textContent.includes('%')")


def hides_an_arm(browser: Any) -> None:
    """A click on a name of the legend takes its line away."""
    plot = browser.find_element("id", "plot2")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    plot.find_element("css selector", ".legend .legendtoggle").click()
    comes(browser, "return document.getElementById('plot2').data[0].visible == 'legendonly'")
