"""Colours can be read in both themes and by people who see fewer of them; the page lets only its own script run."""

from __future__ import annotations

import base64
import hashlib
import re
from itertools import combinations

import numpy as np
import pytest
from skimage.color import rgb2lab

from medsr.page.chart import COLOURS
from medsr.page.shell import SCRIPTS, asset, page, section

STYLE = asset("style.css")


def theme(selector: str) -> dict[str, str]:
    """The colours that a rule of style.css sets."""
    block = STYLE[STYLE.index(selector) :]
    return dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6})", block[: block.index("}")]))


LIGHT, DARK = theme(":root {"), theme(':root[data-theme="dark"] {')
PRINT = theme(':root, :root[data-theme="dark"], :root:not')
# Of dichromats, in linear RGB (Machado et al. 2009, table 1, severity 1).
DICHROMATS = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(colour: str) -> np.ndarray:
    """sRGB of #rrggbb without its gamma (IEC 61966-2-1)."""
    value = np.array([int(colour[n : n + 2], 16) for n in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(first: str, second: str) -> float:
    """Contrast ratio by WCAG 2.2: 1 to 21."""
    bright, dark = sorted((float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (first, second)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("colours", [LIGHT, DARK, PRINT], ids=["light", "dark", "print"])
def test_contrast(colours):
    text = [("ink", "ground"), ("ink", "panel"), ("soft", "ground"), ("accent", "ground"), ("warn-ink", "warn-ground")]
    for front, ground in text:
        assert contrast(colours[f"--{front}"], colours[f"--{ground}"]) >= 4.5, (front, ground)
    for number in range(COLOURS + 1):
        assert contrast(colours[f"--series-{number}"], colours["--ground"]) >= 3, number


def test_the_contrast_is_that_of_wcag():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("kind", DICHROMATS)
def test_series_are_told_apart_by_dichromats(colours, kind):
    seen = {}
    for number in range(1, COLOURS + 1):
        value = np.clip(np.array(DICHROMATS[kind]) @ linear(colours[f"--series-{number}"]), 0, 1)
        gamma = np.where(value <= 0.0031308, 12.92 * value, 1.055 * value ** (1 / 2.4) - 0.055)
        seen[number] = rgb2lab(gamma)
    for one, other in combinations(seen, 2):
        # CIE 1976: about 2 is just seen. Markers and dashes differ as well.
        assert np.linalg.norm(seen[one] - seen[other]) > 10, (one, other)


def test_dark_is_the_same_by_choice_and_by_system():
    assert theme(':root:not([data-theme="light"]) {') == DARK
    assert set(DARK) == set(LIGHT) == set(PRINT)


def test_only_its_own_scripts_may_run():
    html = page("a title", [], [section("heading", "name", "text")], "footer")
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert len(scripts) == len(SCRIPTS)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)[1]
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"&#x27;sha256-{digest}&#x27;" in policy
    assert policy.count("sha256-") == len(SCRIPTS)
    assert "default-src &#x27;none&#x27;" in policy
    assert not any("</script" in asset(name) for name in SCRIPTS)


def test_assets_speak_to_nobody():
    for name in (*SCRIPTS, "style.css"):
        assert not re.search(r"https?:|//[a-z]+\.|@import|url\(|fetch\(|XMLHttp|WebSocket|import\(|eval\(", asset(name))
