"""The viewer in a real browser: what is drawn is what the arrays hold, and every control changes what it says."""

from __future__ import annotations

import base64
import re
import zlib

import numpy as np
import pytest

from medsr.page.shell import page, section
from medsr.page.viewer import viewer

VIEWER = "document.querySelector('.viewer').viewer"


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A page with one viewer, as a file."""
    path = tmp_path_factory.mktemp("page") / "page.html"

    def write(exhibit):
        path.write_text(page("A page", ["header"], [section("Viewer", "viewer", viewer(exhibit, "caption"))], "footer"))
        return path

    return write


@pytest.fixture
def driver(browser, shown, exhibit):
    """The browser with the viewer alive; afterwards nothing may have been complained of or asked for elsewhere."""
    path = shown(exhibit)
    browser.open(path)
    alive(browser.driver)
    yield browser.driver
    assert browser.errors() == []
    assert set(browser.requests()) <= {path.as_uri()}


def alive(driver):
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, 60).until(lambda d: d.execute_script(f"return Boolean({VIEWER})"))


def run(driver, code):
    return driver.execute_script(f"const viewer = {VIEWER}; {code}")


def canvases(driver):
    return driver.find_elements("css selector", ".viewer canvas")


def drawn(driver):
    """What each canvas shows."""
    return run(driver, "return viewer.planes.map((p) => p.canvas.toDataURL())")


def mouse(driver):
    from selenium.webdriver import ActionChains

    return ActionChains(driver, duration=50)


def choose(driver, label, text):
    """Pick an entry of the selection with that label, as a user does."""
    from selenium.webdriver.support.ui import Select

    control = driver.find_element("xpath", f"//div[@class='tools']/label[text()='{label}']/select")
    Select(control).select_by_visible_text(text)


def grey_levels(driver, plane):
    """The grey level at the centre of every voxel of a plane's canvas, rows from the top."""
    values = run(driver, f"""
        const plane = viewer.planes[{plane}], canvas = plane.canvas;
        const w = viewer.facts.shape[plane.x], h = viewer.facts.shape[plane.y];
        const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data, found = [];
        for (let r = 0; r < h; r++) for (let c = 0; c < w; c++) {{
          const x = Math.floor((c + 0.5) / w * canvas.width), y = Math.floor((r + 0.5) / h * canvas.height);
          found.push(pixels[4 * (y * canvas.width + x)]);
        }}
        return [h, w, found];""")  # fmt: skip
    return np.array(values[2]).reshape(values[0], values[1])


def expected(image, plane, at, window):
    """The same from the array (display order: left, posterior, superior)."""
    values = {0: image[:, :, at[2]].T, 1: image[:, at[1], ::-1].T, 2: image[at[0], :, ::-1].T}[plane]
    low, high = window
    return np.clip((values - low) / (high - low) * 255, 0, 255)


@pytest.mark.parametrize("plane", [0, 1, 2])
def test_pixels_are_the_voxels_in_the_radiological_convention(driver, exhibit, plane):
    window = run(
        driver,
        "return [viewer.centre.value - viewer.width.value / 2, viewer.centre.value / 1 + viewer.width.value / 2]",
    )
    for share, name in ((1, "cubic"), (0, "medsr")):
        run(driver, f"viewer.divide({share})")
        truth = expected(exhibit.named(name).array, plane, [n // 2 for n in exhibit.named(name).array.shape], window)
        clear = np.ones(truth.shape, bool)  # of names and letters, which lie over the rim and its middles
        clear[:3], clear[-3:], clear[:, :3], clear[:, -3:] = False, False, False, False
        assert np.abs(grey_levels(driver, plane) - truth)[clear].max() <= 2, name


def test_the_aspect_is_that_of_the_voxels(driver, exhibit):
    shape, spacing = exhibit.pictures[0].array.shape, exhibit.spacing
    for canvas, (x, y) in zip(canvases(driver), ((0, 1), (0, 2), (1, 2)), strict=True):
        size = canvas.size
        truth = shape[x] * spacing[x] / (shape[y] * spacing[y])
        assert size["width"] / size["height"] == pytest.approx(truth, rel=0.02)


def test_dragging_moves_the_divider(driver):
    before = drawn(driver)
    canvas = canvases(driver)[0]
    width = canvas.size["width"]
    mouse(driver).move_to_element(canvas).click_and_hold().move_by_offset(int(width * 0.3), 0).release().perform()
    assert run(driver, "return viewer.split") == pytest.approx(0.8, abs=0.03)
    assert all(a != b for a, b in zip(before, drawn(driver), strict=True)), "one divider for all planes"
    slider = driver.find_element("xpath", "//label[text()='Divider']/input")
    assert float(slider.get_attribute("value")) == pytest.approx(80, abs=3)


def test_the_divider_has_a_control_for_the_keyboard(driver):
    before = drawn(driver)
    slider = driver.find_element("xpath", "//label[text()='Divider']/input")
    slider.send_keys("\ue012" * 20)  # left arrow
    assert run(driver, "return viewer.split") == pytest.approx(0.4)
    assert drawn(driver) != before


@pytest.mark.parametrize("plane", [0, 1, 2])
def test_the_wheel_goes_through_slices_and_does_not_scroll_the_page(driver, plane):
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    axis = run(driver, f"return viewer.planes[{plane}].z")
    over = ScrollOrigin.from_element(canvases(driver)[plane])
    before, place, scrolled = drawn(driver), run(driver, "return viewer.at"), driver.execute_script("return scrollY")
    mouse(driver).scroll_from_origin(over, 0, 120).perform()
    after = run(driver, "return viewer.at")
    assert after[axis] == place[axis] + 1
    assert [a for n, a in enumerate(after) if n != axis] == [a for n, a in enumerate(place) if n != axis]
    assert drawn(driver)[plane] != before[plane]
    assert driver.execute_script("return scrollY") == scrolled
    for _ in range(3):
        mouse(driver).scroll_from_origin(over, 0, -20).perform()
    assert run(driver, f"return viewer.at[{axis}]") == place[axis] - 1, "small steps add up"
    for _ in range(14):
        mouse(driver).scroll_from_origin(over, 0, 120).perform()
    place, count = run(driver, f"return [viewer.at[{axis}], viewer.facts.shape[{axis}]]")
    assert place == count - 1, "it stops at the last slice"


def test_keys_go_through_slices(driver):
    canvas = canvases(driver)[0]
    place = run(driver, "return viewer.at[2]")
    canvas.send_keys("\ue013")  # up
    assert run(driver, "return viewer.at[2]") == place + 1
    canvas.send_keys("\ue00f")  # page down
    assert run(driver, "return viewer.at[2]") == max(place + 1 - 5, 0)
    canvas.send_keys("\ue014")  # right
    assert run(driver, "return viewer.split") == pytest.approx(0.52)
    assert "axial" in canvas.get_attribute("aria-label")
    slice_control = driver.find_element("css selector", "input[aria-label='axial: slice']")
    slice_control.send_keys("\ue010")  # end
    assert run(driver, "return viewer.at[2]") == 11


def test_a_double_click_goes_there_in_the_other_planes(driver):
    canvas = canvases(driver)[0]
    x, y = -canvas.size["width"] // 4, canvas.size["height"] // 4
    mouse(driver).move_to_element_with_offset(canvas, x, y).double_click().perform()
    assert run(driver, "return viewer.at") == [pytest.approx(5, abs=1), pytest.approx(18, abs=1), 6]


@pytest.mark.parametrize(
    "overlay", ["error of left image", "error of right image", "right \u2212 left", "stated deviation", "detail"]
)
def test_overlays_colour_the_picture_and_have_a_scale(driver, overlay):
    before = drawn(driver)
    choose(driver, "Overlay", overlay)
    assert all(a != b for a, b in zip(before, drawn(driver), strict=True))
    scale = driver.find_element("css selector", ".viewer .scale").text
    assert re.search(r"\d", scale), scale
    coloured = drawn(driver)
    strength = driver.find_element("xpath", "//label[text()='Strength']/input")
    strength.send_keys("\ue014" * 10)
    assert drawn(driver) != coloured
    choose(driver, "Overlay", "none")
    assert drawn(driver) == before


def test_the_error_has_the_colour_of_its_sign(driver, exhibit):
    """Where the right image is above the reference the pixel is more red than blue, where below more blue than red."""
    run(driver, "viewer.divide(0)")
    choose(driver, "Overlay", "error of right image")
    pixels = run(driver, """
        const plane = viewer.planes[0], canvas = plane.canvas, found = [];
        const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        for (let r = 0; r < 24; r++) for (let c = 0; c < 20; c++) {
          const x = Math.floor((c + 0.5) / 20 * canvas.width), y = Math.floor((r + 0.5) / 24 * canvas.height);
          found.push([0, 1, 2].map((n) => data[4 * (y * canvas.width + x) + n]));
        }
        return found;""")  # fmt: skip
    rgb = np.array(pixels).reshape(24, 20, 3)[3:-3, 3:-3]
    error = (exhibit.named("medsr").array - exhibit.named("reference").array)[:, :, 6].T[3:-3, 3:-3]
    large = np.abs(error) > 4
    assert large.any()
    assert (np.sign(rgb[..., 0] - rgb[..., 2]) == np.sign(error))[large].all()


def test_windows(driver):
    before = drawn(driver)
    choose(driver, "Window", "dark parts")
    assert drawn(driver) != before
    assert float(run(driver, "return viewer.width.value")) > 0
    width = driver.find_element("xpath", "//label[text()='width']/input")
    darker = drawn(driver)
    width.clear()
    width.send_keys("20")
    assert drawn(driver) != darker


def test_either_side_shows_any_image(driver):
    before = drawn(driver)
    choose(driver, "Left", "reference")
    choose(driver, "Right", "reference")
    assert drawn(driver) != before
    assert "reference left of the divider, reference right" in canvases(driver)[0].get_attribute("aria-label")


def test_one_plane_alone_is_larger(driver):
    small = canvases(driver)[1].size
    driver.find_element("xpath", "//button[text()='coronal']").click()
    assert [c.is_displayed() for c in canvases(driver)] == [False, True, False]
    large = canvases(driver)[1].size
    assert large["height"] > small["height"]
    assert large["width"] / large["height"] == pytest.approx(small["width"] / small["height"], rel=0.03)
    driver.find_element("xpath", "//button[text()='All planes']").click()
    assert all(c.is_displayed() for c in canvases(driver))


def test_the_pointer_reads_the_values(driver, exhibit):
    canvas = canvases(driver)[0]
    mouse(driver).move_to_element_with_offset(canvas, 1, 1).perform()
    text = driver.find_element("css selector", ".viewer output").text
    x, y, z = map(int, re.search(r"voxel (\d+), (\d+), (\d+)", text).groups())
    shown = float(re.search(r"reference ([\d.]+)", text)[1])
    assert shown == pytest.approx(float(exhibit.named("reference").array[x, y, z]), abs=1.5)


def test_dark_and_light(browser, shown, exhibit):
    path = shown(exhibit)
    grounds = {}
    for dark in (False, True):
        browser.open(path, dark=dark)
        grounds[dark] = browser.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        button = browser.driver.find_element("id", "theme")
        assert button.text == ("Light" if dark else "Dark")
        button.click()
        assert browser.driver.execute_script("return getComputedStyle(document.body).backgroundColor") != grounds[dark]
        assert button.text == ("Dark" if dark else "Light")
    assert grounds[False] == "rgb(255, 255, 255)"
    assert sum(map(int, re.findall(r"\d+", grounds[True])[:3])) < 120


def test_without_scripts_there_are_still_pictures(browser, shown, exhibit):
    browser.open(shown(exhibit), scripts=False)
    images = browser.driver.find_elements("css selector", ".stills img")
    assert len(images) == 4
    assert all(image.is_displayed() and image.size["height"] == 190 for image in images)
    assert not browser.driver.find_element("id", "theme").is_displayed()


def test_what_is_smuggled_in_neither_runs_nor_loads(browser, shown, exhibit):
    """Were escaping ever to fail, the page's policy still forbids the markup to run or to call anyone."""
    path = shown(exhibit)
    hostile = "<img src='http://127.0.0.1:9/x.png' onerror='document.title = 1'><script>document.title = 2</script>"
    path.write_text(path.read_text().replace("<main>", f"<main>{hostile}"))
    browser.open(path)
    alive(browser.driver)
    assert browser.driver.title == "A page"
    refused = browser.errors()
    assert refused
    assert all("Content Security Policy" in message for message in refused), refused


def test_print_begins_on_the_first_page_and_shows_the_stills(browser, shown, exhibit):
    browser.open(shown(exhibit))
    alive(browser.driver)
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert browser.driver.find_element("css selector", ".stills").is_displayed()
    assert not browser.driver.find_element("css selector", ".stage").is_displayed()
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    printed = browser.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True, "preferCSSPageSize": True})
    pages = text_operators(base64.b64decode(printed["data"]))
    assert pages[0] > 10
    assert min(pages) > 0


def text_operators(pdf):
    """How often each page of a PDF shows text: the operators Tj and TJ of its content."""
    objects = {int(n): body for n, body in re.findall(rb"(?<!\d)(\d+) 0 obj(.*?)endobj", pdf, re.DOTALL)}
    counts = []
    for body in objects.values():
        if re.search(rb"/Type\s*/Page\b(?!s)", body):
            content = objects[int(re.search(rb"/Contents (\d+) 0 R", body)[1])]
            stream = re.search(rb"stream\r?\n(.*?)\r?\nendstream", content, re.DOTALL)[1]
            counts.append(len(re.findall(rb"\bT[jJ]\b", zlib.decompress(stream))))
    return counts
