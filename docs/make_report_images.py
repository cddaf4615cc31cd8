"""Pictures of reports for the documentation: python docs/make_report_images.py

Draws docs/images/report-scan.png (a phantom, upscaled by the packaged model) and report-study.png (the study of
docs/results/test). Needs chromium and chromedriver (apt-get install chromium chromium-driver) and the extra dev.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from medsr.evaluation.report.page import write_report
from medsr.request import Request
from medsr.resources import sample_path
from medsr.run import upscale_file

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
COLOURS = 160  # of the pictures, which are text and grey images


@contextmanager
def browser(width: int, height: int) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking",
                 "disable-component-update", "disable-sync", "hide-scrollbars"):  # fmt: skip
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        yield driver
    finally:
        driver.quit()


def save(png: bytes, name: str) -> None:
    picture = Image.open(BytesIO(png)).convert("RGB")
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(IMAGES / name, optimize=True)
    print(f"{IMAGES / name}: {(IMAGES / name).stat().st_size / 1000:.0f} kB")


def draw_scan(folder: Path) -> None:
    """The viewer of a run, the stated deviation laid over it."""
    scan = folder / "head_coarse.nii.gz"
    scan.write_bytes(sample_path("head_coarse.nii.gz").read_bytes())
    request = Request(uncertainty=True, detail_map=True, report=True)
    page = upscale_file(scan, None, request, overwrite=True).files["report"]
    with browser(1240, 720) as driver:
        driver.get(page.as_uri())
        host = driver.find_element("css selector", ".viewer")
        driver.execute_script("arguments[0].scrollIntoView({behavior: 'instant'})", host)
        while not driver.execute_script("return Boolean(arguments[0].viewer)", host):
            time.sleep(0.1)
        driver.execute_script(
            "const v = arguments[0].viewer; v.overlay.value = 'std'; v.strength.value = 0.6; v.divide(0.5)", host
        )
        time.sleep(0.5)
        save(host.screenshot_as_png, "report-scan.png")


def draw_study(folder: Path) -> None:
    """The first screen of a study's report."""
    page = folder / "report.html"
    write_report([ROOT / "docs" / "results" / "test"], page)
    with browser(1240, 760) as driver:
        driver.get(page.as_uri())
        time.sleep(0.5)
        save(driver.get_screenshot_as_png(), "report-study.png")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        draw_study(Path(name))
        draw_scan(Path(name))
