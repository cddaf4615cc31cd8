"""Write docs/reference.md from the command line itself; with --check, fail when the committed page is out of date."""

from __future__ import annotations

import html
import inspect
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

PAGE = Path(__file__).with_name("reference.md")
ROOT = PAGE.parent.parent
INTRODUCTION = """# Commands

<!-- Written by docs/make_reference.py; the help texts are in medsr/commands/ and medsr/options.py. -->

Research use only, not for diagnosis. The output is an estimate made by an algorithm: AI SR, not acquired.
"""
EXIT_CODES = """
## Exit codes

| code | meaning |
|---|---|
| 0 | done |
| 1 | a fault of medsr's own; the message says what to report |
| 2 | usage or configuration |
| 3 | the scan cannot be read as one trustworthy volume, or a codec for it is missing |
| 4 | the scan is readable, but what was asked cannot or should not be done; or an extra is missing |
| 5 | the weights file is damaged, foreign or does not fit |
| 6 | the computing device is absent, lost or out of memory |
| 7 | the output cannot be written, or a job failed |
| 8 | a batch or a study in which some scans failed; the others are done |
| 130, 143 | interrupted, terminated |

A refusal is one line on standard error: what was found, what was expected, what to do. Nothing is written then.
"""


def walk(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command below ``command`` with the words that call it, parents first, in the order of ``--help``."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path[-1])
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                yield from walk(child, (*path, name))


def reference(command: click.Command) -> str:
    """The page for a command and everything below it."""
    parts = [INTRODUCTION]
    parts += [_section(path, found, command.context_settings) for path, found in walk(command, ("medsr",))]
    return "\n".join([*parts, EXIT_CODES.lstrip("\n")])


def _section(path: tuple[str, ...], command: click.Command, settings: Mapping[str, Any]) -> str:
    context = click.Context(command, info_name=" ".join(path), **settings)
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [
        f"## `{' '.join(path)}`",
        "",
        *_paragraphs(command.help or ""),
        "```text",
        f"{' '.join(path)} {usage}",
        "```",
    ]
    # Arguments are in the usage and the text above it.
    options = [parameter for parameter in command.get_params(context) if not isinstance(parameter, click.Argument)]
    records = [record for option in options if (record := option.get_help_record(context))]
    if records:
        lines += ["", "| option | meaning |", "|---|---|"]
        lines += [f"| {_code(names)} | {_text(text)} |" for names, text in records]
    if isinstance(command, click.Group):
        children = ((word, command.get_command(context, word)) for word in command.list_commands(context))
        shown = [(word, child) for word, child in children if child is not None and not child.hidden]
        lines += ["", "| command | what it does |", "|---|---|"]
        lines += [f"| `{word}` | {_text(child.get_short_help_str(200))} |" for word, child in shown]
    return "\n".join(lines) + "\n"


def _paragraphs(text: str) -> Iterator[str]:
    """The help text without click's control characters; blocks marked with \\b stay as they are laid out."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        raw = paragraph.startswith("\b\n")
        body = paragraph.replace("\b\n", "").replace("\f", "")
        yield f"```text\n{body}\n```" if raw else " ".join(body.split())
        yield ""


def _code(text: str) -> str:
    # A pipe inside backticks would end the table cell in some renderers; as an entity it is safe in all.
    return f"<code>{html.escape(text, quote=False).replace('|', '&#124;')}</code>"


def _text(text: str) -> str:
    return html.escape(" ".join(text.split()), quote=False).replace("|", "&#124;").replace("*", "&#42;")


def main() -> int:
    """Write the page, or compare it; exit status 1 when it is out of date."""
    sys.path.insert(0, str(ROOT))  # the command line of this checkout, whatever is installed
    from medsr.cli import cli

    text = reference(cli)
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    print("docs/reference.md is out of date; run: python docs/make_reference.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
