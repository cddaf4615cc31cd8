"""What ``medsr batch`` says: the plan of a cohort and how it ended, for people and as JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medsr.machine import gigabytes
from medsr.service.batch import Ended
from medsr.service.items import LeftOut
from medsr.service.manifest import MANIFEST
from medsr.service.planning import PlannedItem
from medsr.service.preview import Preview
from medsr.service.summary import PAGE

_LINES = 20  # of scans that failed
_WIDTH = 48  # characters of a name in a table; the end of a path says more than its beginning


def plan_table(preview: Preview) -> str:
    """One line a scan that is to be done, what is left out, and the sum."""
    lines = _columns([_planned(one) for one in preview.planned])
    lines += [f"{_short(name)}  parked; medsr jobs retry queues it again" for name in preview.parked]
    lines += [f"{_short(row.name)}  {_label(row)}: {row.reason}" for row in preview.left_out]
    return "\n".join([*lines, _sum(preview), *_room(preview)])


def plan_json(preview: Preview) -> dict[str, Any]:
    """Every plan, every row that is left out, names of what is done, and the disk in bytes."""
    return {
        "scans": [
            {"name": one.item.name, "output": one.item.output, "plan": one.plan.to_json()} for one in preview.planned
        ],
        "done": list(preview.done),
        "parked": list(preview.parked),
        "left_out": [{"name": row.name, "reason": row.reason, "exit_code": row.exit_code} for row in preview.left_out],
        "disk": {"at_least": preview.room.least, "at_most": preview.room.most, "free": preview.free},
    }


def ended_text(ended: Ended, out: Path) -> str:
    """How it ended, in two lines."""
    parts = [f"{ended.done} done" + (f" ({ended.before} of them before)" if ended.before else "")]
    if ended.trouble:
        parts.append(f"{len(ended.trouble)} failed")
    if ended.waiting:
        parts.append(f"{ended.waiting} not begun")
    if ended.left_out:
        parts.append(f"{ended.left_out} left out")
    return f"{', '.join(parts)}\n{out / MANIFEST}, {out / PAGE}"


def trouble_lines(ended: Ended) -> list[str]:
    """One line for each scan without a result, the first of very many."""
    lines = [t.reason if t.reason.startswith(t.name) else f"{t.name}: {t.reason}" for t in ended.trouble[:_LINES]]
    more = len(ended.trouble) - _LINES
    return [*lines, f"{more} more scans have no result; {MANIFEST} has them all"] if more > 0 else lines


def ended_json(ended: Ended) -> dict[str, Any]:
    """The same as JSON values."""
    return {
        "done": ended.done,
        "done_before": ended.before,
        "failed": [{"name": t.name, "reason": t.reason, "exit_code": t.exit_code} for t in ended.trouble],
        "not_begun": ended.waiting,
        "left_out": ended.left_out,
    }


def _planned(one: PlannedItem) -> tuple[str, ...]:
    plan = one.plan
    shapes = [" x ".join(map(str, shape)) for shape in (plan.source.shape, plan.target.shape)]
    remarks = f"{len(plan.warnings)} warnings" if len(plan.warnings) > 1 else "1 warning" if plan.warnings else ""
    return _short(one.item.name), plan.modality or "at read", f"{shapes[0]} -> {shapes[1]}", remarks


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _label(row: LeftOut) -> str:
    return f"refused ({row.exit_code})" if row.exit_code else "left out"


def _sum(preview: Preview) -> str:
    refused = sum(row.exit_code != 0 for row in preview.left_out)
    parts = [f"{len(preview.planned)} to do"]
    if preview.done:
        parts.append(f"{len(preview.done)} done already (a run compares hashes)")
    if preview.parked:
        parts.append(f"{len(preview.parked)} parked")
    parts += [f"{refused} refused", f"{len(preview.left_out) - refused} left out"]
    seconds = sum(one.plan.seconds for one in preview.planned)
    minutes = f"; about {max(1, round(seconds / 60))} min on two CPU cores" if preview.planned else ""
    return f"{', '.join(parts)}{minutes}"


def _room(preview: Preview) -> list[str]:
    """The disk, in a line, where something is to be done."""
    if not preview.planned:
        return []
    if preview.shortage is not None:
        return [f"refused (4): {preview.shortage}"]
    free = "" if preview.free is None else f", {gigabytes(preview.free)} is free"
    scarce = preview.free is not None and preview.room.most > preview.free
    doubt = f": it may not do ({gigabytes(preview.room.least)} is the least they need)" if scarce else ""
    return [f"disk: the results need up to {gigabytes(preview.room.most)}{free}{doubt}"]


def _short(name: str) -> str:
    return name if len(name) <= _WIDTH else f"...{name[3 - _WIDTH :]}"
