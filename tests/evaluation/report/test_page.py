"""The page holds together: one file, nothing loaded, every figure with its protocol, no name that becomes code."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from medsr.errors import InputError, PlanError
from medsr.evaluation.casefile import case_path, write_case
from medsr.evaluation.report.page import report, write_report
from medsr.evaluation.report.results import read_results
from medsr.page.shell import SCRIPTS

ROOT = Path(__file__).resolve().parents[3]
VOID = {"br", "img", "input", "meta", "wbr"}


class Document(HTMLParser):
    """Elements with their attributes, the path to each, and the text below each kind."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def values(self, attribute: str) -> list[str]:
        return [a[attribute] or "" for _, a in self.elements if attribute in a]


@pytest.fixture
def page(make, saved):
    """MR, CT and a phantom under two protocols, with cases."""
    volumes = (
        make.volume("test/a_T1w.nii.gz", "A"),
        make.volume("test/b_T1w.nii.gz", "B"),
        make.volume("test/c_CT.nii.gz", "C", modality="CT"),
        make.volume("test/p_T1w.nii.gz", "P", phantom=True),
    )
    gains = dict(zip([v.name for v in volumes], [0.5, 2.0, 1.0, 7.0], strict=True))
    study = make.study(gains, volumes, (make.inplane, make.slice), warnings=("misaligned by 0.5 voxels along i",))
    return report(read_results([saved(study)]))


def test_it_is_well_formed_and_finds_its_own_sections(page):
    document = Document(page)
    assert document.open == []
    names = document.values("id")
    assert [n for n, count in Counter(names).items() if count > 1] == []
    links = [h for h in document.values("href") if h.startswith("#")]
    assert links
    assert {link[1:] for link in links} <= set(names)
    assert document.elements.count(("html", {"lang": "en"})) == 1
    headings = [int(name[1]) for name, _ in document.elements if re.fullmatch("h[1-6]", name)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(headings)), "no level is skipped"


def test_every_table_and_plot_names_its_protocol(page):
    for protocol in ("inplane-x2", "slice-x4"):
        start = page.index(f'id="protocol-{protocol}"')
        end = page.find("<section", start)
        captions = re.findall(r"<(caption|figcaption)>(.*?)</\1>", page[start:end])
        assert len(captions) > 8
        for _, caption in captions:
            assert protocol in caption or caption in STILLS, caption


STILLS = {"scan, nearest", "cubic", "medsr", "medsr, texture 1", "reference"}


def test_every_picture_says_what_it_is(page):
    document = Document(page)
    for name, attributes in document.elements:
        if name == "img":
            assert attributes["alt"]
        if name == "svg":
            assert attributes.get("role") == "img" or attributes.get("aria-hidden") == "true"
    drawn = [a for name, a in document.elements if name == "svg" and a.get("role") == "img"]
    assert len(drawn) == len(re.findall(r'class="chart"><title>', page))


def test_it_loads_nothing(page, tmp_path):
    spec = importlib.util.spec_from_file_location("check_offline", ROOT / "docs" / "check_offline.py")
    check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)
    (tmp_path / "index.html").write_text(page)
    assert check.remote_loads(tmp_path) == []
    assert "default-src &#x27;none&#x27;" in page


def test_it_says_what_it_is_not(page):
    for text in ("Research use only, not for diagnosis", "AI SR, not acquired", "Limits", "simulated"):
        assert text in page


def test_phantoms_are_in_no_mean_but_in_the_table(page):
    assert "test/p_T1w" in re.sub("<wbr>", "", page)
    assert "MR, phantom" in page
    row = re.search(r"<tr><th[^>]*><a href=\"#protocol-inplane-x2\">.*?</tr>", page)[0]
    cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)
    assert cells[1:5] == ["MR", "2 (2)", "30.00", "31.25"]


def test_worst_best_and_warnings_are_shown(page):
    text = re.sub("<[^>]+>", "", page)
    assert "Worst case of inplane-x2: test/a_T1w (MR), medsr 30.50 dB, gain +0.50 dB over linear MMSE" in text
    assert "Best case of inplane-x2: test/b_T1w (MR), medsr 32.00 dB" in text
    assert "Median case of inplane-x2: test/c_CT (CT)" in text
    assert "test/a_T1w.nii.gz, medsr: misaligned by 0.5 voxels along i" in text
    assert "spacing of 6.5 mm" in text


HOSTILE = '<script>alert(1)</script>" onload="x.nii.gz'


def test_no_name_becomes_code(make, saved):
    """A volume, subject, method, warning and reason that are HTML, and a command with control characters."""
    volumes = (make.volume(HOSTILE, HOSTILE), make.volume("</script><!--", "b"))
    study = make.study({v.name: 1.0 for v in volumes}, volumes, warnings=(HOSTILE,))
    study = study.model_copy(
        update={
            "title": HOSTILE,
            "command": f"medsr \x1b[31m {HOSTILE}",
            "excluded": (study.excluded[0].model_copy(update={"reason": HOSTILE}),),
        }
    )
    page = report(read_results([saved(study)]))
    document = Document(page)
    assert document.open == []
    allowed = {"application/json", "text/plain", None}
    scripts = [a for name, a in document.elements if name == "script"]
    assert {a.get("type") for a in scripts} == allowed
    assert sum(a.get("type") is None for a in scripts) == len(SCRIPTS), "only the page's own scripts run"
    assert document.values("onload") == []
    assert "alert(1)" not in "".join(text for name, text in document.texts if name == "script")
    assert "\x1b" not in page


def test_a_study_of_twenty_volumes_is_below_15_megabytes(make, saved):
    """Twenty volumes under five protocols with full cases of noise, which hardly packs."""
    volumes = tuple(make.volume(f"v{n:02}.nii.gz", modality="CT" if n % 3 == 0 else "MR") for n in range(20))
    protocols = tuple(make.inplane.model_copy(update={"name": f"inplane-{n}"}) for n in range(5))
    folder = saved(make.study({v.name: n / 10 for n, v in enumerate(volumes)}, volumes, protocols), cases=())
    noisy = make.case(0, (128, 128, 64), noise=0.3)
    first = case_path(folder, protocols[0].name, volumes[0].name)
    write_case(noisy, first)
    for protocol in protocols:
        for volume in volumes:
            path = case_path(folder, protocol.name, volume.name)
            path.parent.mkdir(exist_ok=True)
            if path != first:
                path.hardlink_to(first)
    out = folder / "report.html"
    write_report([folder], out)
    assert out.stat().st_size < 15e6
    assert out.read_text().count('class="viewer"') == 10, "the worst and the best case of every protocol"


def test_a_study_without_cases_has_no_viewer(make, saved):
    page = report(read_results([saved(make.study({"a": 1.0}, (make.volume("a"),)), cases=())]))
    assert 'class="viewer"' not in page
    assert "Drag in an image" not in page


def test_cases_of_unknown_axes_are_shown_as_stored(make, saved):
    study = make.study({"a": 1.0}, (make.volume("a"),))
    folder = saved(study, cases=())
    case = make.case(0)
    write_case(type(case)(case.images, case.spacing, case.slice_axis), case_path(folder, "inplane-x2", "a"))
    page = report(read_results([folder]))
    assert "across k" in page
    assert "the middle slice, across k" in page


def test_a_page_that_exists_is_kept(make, saved, tmp_path):
    folder = saved(make.study({"a": 1.0}, (make.volume("a"),)))
    out = tmp_path / "report.html"
    out.write_text("precious")
    with pytest.raises(PlanError):
        write_report([folder], out)
    assert out.read_text() == "precious"
    write_report([folder], out, overwrite=True)
    assert out.read_text().startswith("<!DOCTYPE html>")


def test_a_damaged_case_is_named(make, saved):
    folder = saved(make.study({"a": 1.0}, (make.volume("a"),)))
    case_path(folder, "inplane-x2", "a").write_bytes(b"half")
    with pytest.raises(InputError, match=r"a\.npz is no case"):
        write_report([folder], folder / "report.html")


def test_the_same_study_gives_the_same_bytes(make, saved):
    folder = saved(make.study({"a": 1.0, "b": 2.0}, (make.volume("a"), make.volume("b"))))
    write_report([folder], folder / "one.html")
    write_report([folder], folder / "two.html")
    assert (folder / "one.html").read_bytes() == (folder / "two.html").read_bytes()


@pytest.mark.parametrize("drop", ["spectrum", "reliability"])
def test_plots_that_have_no_data_are_left_out(make, saved, drop):
    study = make.study({"a": 1.0, "bb": 2.0}, (make.volume("a"), make.volume("bb")))
    bare = tuple(o.model_copy(update={drop: None}) for o in study.outcomes)
    titles = {"spectrum": "inplane-x2: spectra", "reliability": "inplane-x2: stated and true error"}
    full = report(read_results([saved(study, "full", cases=())]))
    less = report(read_results([saved(study.model_copy(update={"outcomes": bare}), "less", cases=())]))
    assert titles[drop] in full
    assert titles[drop] not in less
    drawn = re.findall(r' (?:points|transform|x1|y1|d)="([^"]*)"', less)
    assert drawn
    assert not [d for d in drawn if "nan" in d or "inf" in d]


def test_without_classical_methods_the_table_has_no_empty_columns(make, saved):
    study = make.study({"a": 1.0}, (make.volume("a"),))
    own = tuple(o for o in study.outcomes if o.method.startswith("medsr"))
    page = report(read_results([saved(study.model_copy(update={"outcomes": own}), cases=())]))
    heads = re.findall(r"<th scope=\"col\"[^>]*>(.*?)</th>", page[: page.index("</table>")])
    assert heads == ["protocol", "scans", "subjects", "medsr, dB", "SSIM"]
