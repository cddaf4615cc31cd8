"""A study's page in a real browser: every viewer comes alive, nothing is complained of, nothing is asked for."""

from __future__ import annotations

import base64
import re

import pytest

from medsr.evaluation.report.page import write_report


@pytest.fixture
def page(make, saved, tmp_path):
    volumes = (
        make.volume('test/<b onload="x">.nii.gz', "A"),
        make.volume("test/b_T1w.nii.gz", "B"),
        make.volume("test/c_CT.nii.gz", "C", modality="CT"),
    )
    gains = dict(zip([v.name for v in volumes], [0.5, 2.0, 1.0], strict=True))
    study = make.study(gains, volumes, (make.inplane, make.slice), warnings=("misaligned",))
    path = tmp_path / "a report.html"
    write_report([saved(study)], path)
    return path


def test_the_whole_page(browser, page):
    from selenium.webdriver.support.ui import WebDriverWait

    browser.open(page)
    driver = browser.driver
    hosts = driver.find_elements("css selector", ".viewer")
    assert len(hosts) == 6
    for host in hosts:
        driver.execute_script("arguments[0].scrollIntoView()", host)
        WebDriverWait(driver, 60).until(
            lambda d, host=host: d.execute_script("return Boolean(arguments[0].viewer)", host)
        )
        assert len(host.find_elements("css selector", "canvas")) == 3
    choices = {o.text for o in driver.find_elements("css selector", ".tools select option")}
    assert {"scan, nearest", "cubic", "medsr", "medsr, texture 1", "reference", "stated deviation", "lung"} <= choices
    assert "misaligned" in driver.find_element("css selector", "main").text
    wide = driver.execute_script("return document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0, "the page itself never scrolls sideways"
    assert browser.errors() == []
    assert set(browser.requests()) == {page.as_uri()}


def test_on_a_small_screen(browser, page):
    browser.open(page)
    metrics = {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": False}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        wide = browser.driver.execute_script("return document.documentElement.scrollWidth - innerWidth")
    finally:
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide <= 0


def test_print_opens_what_is_folded(browser, page):
    browser.open(page)
    printed = browser.driver.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
    pages = len(re.findall(rb"/Type\s*/Page\b(?!s)", base64.b64decode(printed["data"])))
    browser.driver.execute_script("document.querySelectorAll('details').forEach((d) => d.remove())")
    printed = browser.driver.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
    without = len(re.findall(rb"/Type\s*/Page\b(?!s)", base64.b64decode(printed["data"])))
    assert pages > without > 1
