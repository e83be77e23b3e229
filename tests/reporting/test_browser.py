"""The report in headless Chromium, from a file, as a reader opens it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --disable-dev-shm-usage --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync --window-size=1400,900"
)
SCHEMES = {"light": (255, 255, 255), "dark": (23, 25, 28)}

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium with chromedriver (Debian: chromium, chromium-driver)"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """A browser without a network, with a profile of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(DRIVER))
    driver.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: webdriver.Chrome, everything: Path) -> webdriver.Chrome:
    """The report, just opened."""
    browser.get((everything / "report.html").as_uri())
    return browser


def rows(table: WebElement) -> list[str]:
    return [cell.text for cell in table.find_elements(By.CSS_SELECTOR, "tbody th")]


def values(table: WebElement, column: int) -> list[str]:
    cells = table.find_elements(By.CSS_SELECTOR, f"tbody tr > :nth-child({column + 1})")
    return [str(cell.get_attribute("data-value")) for cell in cells]


def table3(page: webdriver.Chrome) -> WebElement:
    return page.find_element(By.CSS_SELECTOR, "#table-3-accuracy table.sortable")


def test_nothing_is_refused_nothing_of_the_data_runs_and_every_picture_shows(page: webdriver.Chrome) -> None:
    page.execute_script("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    pictures = page.find_elements(By.TAG_NAME, "img")
    assert len(pictures) > 10
    undecoded = page.execute_async_script(
        "const done = arguments[0]; const all = [...document.images];"
        "Promise.allSettled(all.map((i) => i.decode())).then(() =>"
        "  done(all.filter((i) => !i.naturalWidth || !i.clientWidth).map((i) => i.alt)));"
    )
    assert undecoded == []
    assert page.execute_script("return document.querySelectorAll('main script, [onerror]').length") == 0
    assert page.get_log("browser") == []


def test_the_policy_stops_a_script_that_is_not_the_pages_own(page: webdriver.Chrome) -> None:
    page.execute_script(
        "const script = document.createElement('script'); script.textContent = 'window.ran = true';"
        "document.body.append(script)"
    )
    assert page.execute_script("return window.ran") is None
    assert any("Content Security Policy" in entry["message"] for entry in page.get_log("browser"))


def test_a_table_sorts_by_click_both_ways_and_back(page: webdriver.Chrome) -> None:
    table = table3(page)
    heads = table.find_elements(By.CSS_SELECTOR, "thead th")
    column = [head.text for head in heads].index("DocVQA")
    head = heads[column]
    printed = rows(table)
    for order, reverse in (("descending", True), ("ascending", False)):
        head.find_element(By.TAG_NAME, "button").click()
        assert head.get_attribute("aria-sort") == order
        found = [float(v) for v in values(table, column) if v]
        assert len(set(found)) > 2
        assert found == sorted(found, reverse=reverse)
        assert sorted(rows(table)) == sorted(printed)
    assert rows(table) != printed
    head.find_element(By.TAG_NAME, "button").click()
    assert head.get_attribute("aria-sort") is None
    assert rows(table) == printed


def test_a_table_sorts_by_keyboard(page: webdriver.Chrome) -> None:
    """Tab reaches the first button of a head from the area before it, and the ring of focus is seen."""
    table = table3(page)
    page.execute_script("arguments[0].closest('.scroll').focus()", table)
    body = page.switch_to.active_element
    body.send_keys(Keys.TAB)
    button = page.switch_to.active_element
    assert button.tag_name == "button"
    assert button.value_of_css_property("outline-style") == "solid"
    printed = rows(table)
    button.send_keys(Keys.ENTER)
    assert rows(table) == sorted(printed, key=str.lower)
    button.send_keys(Keys.SPACE)
    assert rows(table) == sorted(printed, key=str.lower, reverse=True)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", [390, 1400])
def test_the_page_follows_the_scheme_and_fits_the_window(
    page: webdriver.Chrome, scheme: str, width: int
) -> None:
    wanted = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": wanted})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        paper = page.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")
        assert paper.replace("rgba", "rgb").startswith(str(SCHEMES[scheme]).replace("(", "rgb(")[:-1])
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
