"""Write the table of docs/dicom-write.md from medsr/image/dicom_attributes.py; with --check, fail when it is old."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

PAGE = Path(__file__).with_name("dicom-write.md")
ROOT = PAGE.parent.parent
BEGIN = "<!-- The table is written by docs/make_dicom_table.py. -->"
END = "<!-- End of the table. -->"
_LEVELS = {"series": "the series' first file", "volume": "each volume's first file", "slice": "the nearest slice"}


def table() -> Iterator[str]:
    """A section for each module: what is copied, what is new and what it holds, what is dropped and why."""
    sys.path.insert(0, str(ROOT))  # of this checkout, whatever is installed
    from medsr.image.dicom_attributes import MODULES

    for module in MODULES:
        yield f"### {module.name}"
        yield ""
        yield "| | attributes |"
        yield "|---|---|"
        if module.copied:
            yield f"| copied, from {_LEVELS[module.level]} | {_listed(k for k in module.copied)} |"
        if module.required:
            empty = "there and empty where the source has none"
            empty += ", if it has any of the module" if module.optional else ""
            yield f"| of these {empty} | {_listed(module.required)} |"
        for keyword, what in module.new.items():
            yield f"| new | `{keyword}`: {what} |"
        for why, keywords in module.dropped.items():
            yield f"| dropped: {why} | {_listed(keywords)} |"
        yield ""


def _listed(keywords: Iterable[str]) -> str:
    return ", ".join(f"`{keyword}`" for keyword in keywords)


def with_table(text: str) -> str:
    """The page's text with the table as it is now."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n" + "\n".join(table()) + f"\n{END}{after}"


def main() -> int:
    """Write the page, or compare it; exit status 1 when it is out of date."""
    text = PAGE.read_text(encoding="utf-8")
    made = with_table(text)
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(made, encoding="utf-8")
        return 0
    if made == text:
        return 0
    print("docs/dicom-write.md is out of date; run: python docs/make_dicom_table.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
