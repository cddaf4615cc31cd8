"""Fail when a built page loads anything from another host: python docs/check_offline.py site."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

_LOADING_ATTRIBUTES = {"src", "srcset", "data", "poster"}
_REMOTE = re.compile(r"^\s*(https?:)?//", re.IGNORECASE)
_REMOTE_CSS = re.compile(r"(?:url\(\s*['\"]?|@import\s+['\"])(?:https?:)?//[^)'\"]+", re.IGNORECASE)
_LOADED_LINKS = {"stylesheet", "icon", "preload", "prefetch", "modulepreload", "preconnect", "dns-prefetch", "manifest"}


class _Loads(HTMLParser):
    """Collects what a browser would fetch from elsewhere without being asked; plain links do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.remote: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        loaded = [values[name] for name in _LOADING_ATTRIBUTES & values.keys()]
        if tag == "link" and _LOADED_LINKS & set(values.get("rel", "").split()):
            loaded.append(values.get("href", ""))
        self.remote += [f"<{tag}> {url}" for url in loaded if _REMOTE.match(url)]
        self.remote += [f"<{tag} style> {url}" for url in _REMOTE_CSS.findall(values.get("style", ""))]
        if "mermaid" in values.get("class", "").split():  # the theme's script fetches a renderer for these
            self.remote.append("a mermaid diagram")


def remote_loads(site: Path) -> list[str]:
    """One line for each resource of another host that a page or style sheet under ``site`` loads."""
    found = []
    for page in sorted(site.rglob("*.html")):
        parser = _Loads()
        text = page.read_text(encoding="utf-8")
        parser.feed(text)
        found += [f"{page.relative_to(site)}: {load}" for load in parser.remote + _REMOTE_CSS.findall(text)]
    for sheet in sorted(site.rglob("*.css")):
        found += [f"{sheet.relative_to(site)}: {url}" for url in _REMOTE_CSS.findall(sheet.read_text(encoding="utf-8"))]
    return found


def main() -> int:
    """Print what is loaded from elsewhere; exit status 1 when there is anything."""
    site = Path(sys.argv[1] if len(sys.argv) > 1 else "site")
    if not (site / "index.html").is_file():
        print(f"{site} holds no built documentation", file=sys.stderr)
        return 1
    found = remote_loads(site)
    print("\n".join(found), file=sys.stderr, end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
