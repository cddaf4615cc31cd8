"""The page around a report: one file that loads nothing, in which no scripts but its own can run."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from importlib import resources

from medsr.page.markup import Html, bullets, join, paragraph, tag

HONESTY = "Research use only, not for diagnosis."
MADE = "Super-resolved images are AI SR, not acquired."

SCRIPTS = ("page.js", "viewer.js")
LIMITS = (
    "Detail that the scan did not transmit is predicted from other scans. It may be wrong, and small lesions can be "
    "smoothed away or, with texture above 0, appear where there are none.",
    "A certificate near 0 says that nothing measured was changed. It cannot say that what was added is true.",
    "The stated uncertainty is calibrated on average over voxels of validation scans. It does not bound the error of a "
    "single voxel, of a lesion or of a kind of scan that was not among them.",
    "The method corrects neither motion, nor distortion, nor metal artefacts, and may sharpen them.",
)


def page(title: str, header: Sequence[object], body: Iterable[object], footer: object) -> Html:
    """A whole document. header: what comes first, below the title; body: the sections."""
    scripts = [asset(name) for name in SCRIPTS]
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    # Nothing may be loaded, and of scripts only those below may run: what a file's name smuggled in could not.
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}"
    head = tag(
        "head",
        None,
        tag("meta", {"charset": "utf-8"}),
        tag("meta", {"http-equiv": "Content-Security-Policy", "content": policy}),
        tag("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        tag("meta", {"name": "generator", "content": "medsr"}),
        tag("title", None, title),
        tag("style", None, asset("style.css")),
    )
    toggle = tag("button", {"type": "button", "id": "theme", "hidden": True}, "Dark")
    banner = tag("div", {"class": "mark-of-honesty"}, tag("strong", None, HONESTY), tag("span", None, MADE), toggle)
    top = tag("header", None, banner, tag("h1", None, title), *header)
    content = (
        top,
        tag("main", None, *body),
        tag("footer", None, footer),
        *(tag("script", None, script) for script in scripts),
    )
    return Html("<!DOCTYPE html>\n" + tag("html", {"lang": "en"}, head, tag("body", None, *content)) + "\n")


def asset(name: str) -> Html:
    """A file that travels in this package: style.css, or one of SCRIPTS."""
    return Html(resources.files("medsr.page").joinpath(name).read_text(encoding="utf-8"))


def section(heading: str, identity: str, *children: object) -> Html:
    """A part of the page with a heading of the second level. identity: its name in the address, letters and digits."""
    return tag("section", {"aria-labelledby": identity}, tag("h2", {"id": identity}, heading), *children)


def navigation(entries: Iterable[tuple[str, str]]) -> Html:
    """Links to sections. entries: (identity, label)."""
    links = [tag("a", {"href": f"#{identity}"}, label) for identity, label in entries]
    return tag("nav", {"aria-label": "Sections"}, *links)


def warning(lead: str, items: Sequence[object] = ()) -> Html:
    """What a reader must not miss."""
    return tag("div", {"class": "warning", "role": "note"}, tag("strong", None, lead), bullets(items))


def limits(more: Sequence[str] = ()) -> Html:
    """What the method cannot do, on every report."""
    return section("Limits", "limits", paragraph(f"{HONESTY} {MADE}"), bullets([*more, *LIMITS]))


def facts(pairs: Iterable[tuple[str, object]]) -> Html:
    """Terms and what they are."""
    return tag("dl", None, join(join((tag("dt", None, term), tag("dd", None, value))) for term, value in pairs))
