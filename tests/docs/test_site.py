"""The documentation site is built without a warning, and its pages show what they are made of."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

from dps_ray.config import settings
from dps_ray.errors import ResourceError
from pipelines.monitoring.metrics import METRICS
from pipelines.monitoring.report.browser import headless_browser

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    return folder


@pytest.fixture(scope="module")
def browser():
    try:
        with headless_browser() as browser:
            yield browser
    except ResourceError as error:
        pytest.skip(str(error))


def opened(browser, page):
    """The text of a page's article; fails on what the console calls severe, and on anything not fetched from here."""
    browser.get_log("browser")
    browser.get(page.as_uri())
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    fetched = browser.execute_script(
        "return performance.getEntriesByType('resource').map(entry => entry.name)"
    )
    assert [name for name in fetched if not name.startswith(("file:", "data:"))] == []
    return browser.find_element(By.TAG_NAME, "article").text


def in_code(browser):
    """The texts in the first cell of every row of the page's tables."""
    return browser.execute_script(
        "return [...document.querySelectorAll('article td:first-child code')].map(code => code.textContent)"
    )


@pytest.mark.parametrize(
    ("page", "title"),
    [
        ("index", "dps_ray"),
        ("method", "The method - dps_ray"),
        ("design", "Design - dps_ray"),
        ("reliability", "Reliability - dps_ray"),
        ("changelog", "Changes - dps_ray"),
    ],
)
def test_a_page_opens_with_its_title_and_all_of_its_pictures(browser, site, page, title):
    assert opened(browser, site / f"{page}.html")
    assert browser.title == title
    broken = browser.execute_script(
        "return [...document.images].filter(image => !image.naturalWidth).map(image => image.src)"
    )
    assert broken == []


def test_the_settings_page_has_every_setting_with_its_default(browser, site):
    text = opened(browser, site / "settings.html")
    assert {key for key, *_ in settings.describe()} <= set(in_code(browser))
    assert "checkpoint.every" in text
    assert "python -m pipelines.evaluate" in text


def test_the_metrics_page_has_every_metric(browser, site):
    opened(browser, site / "metrics.html")
    assert set(METRICS) <= set(in_code(browser))


def test_the_python_reference_is_made_from_docstrings(browser, site):
    text = opened(browser, site / "api.html")
    assert "BeliefStore(" in text
    assert "Beliefs over solve states for every prompt of a pool" in text


def test_equations_are_drawn_without_a_script(browser, site):
    opened(browser, site / "method.html")
    drawn = browser.find_elements(By.CSS_SELECTOR, "article svg[role=img]")
    assert len(drawn) > 20
    assert all(equation.get_attribute("aria-label") for equation in drawn)
    assert browser.find_elements(By.CSS_SELECTOR, ".arithmatex") == []


def test_a_link_to_a_file_of_the_repository_shows_that_file(browser, site):
    opened(browser, site / "clusters.html")
    browser.find_element(By.PARTIAL_LINK_TEXT, "Dockerfile").click()
    assert browser.current_url == (site / "repository" / "Dockerfile.txt").as_uri()
    assert "COPY pyproject.toml" in browser.find_element(By.TAG_NAME, "body").text
