"""YAML files into pydantic models: plain values only, and an unknown key is an error."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from medsr.errors import ConfigError

SIZE_LIMIT = 1 << 20  # bytes; a configuration is a few kilobytes
Config = TypeVar("Config", bound=BaseModel)


class _PlainLoader(yaml.SafeLoader):
    """The safe loader without what a configuration has no use for: tags, aliases, keys given twice."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise _refusal("aliases are not allowed", event)
        if getattr(event, "tag", None) is not None:
            raise _refusal(f"tag {event.tag!r} is not allowed", event)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for position, key in enumerate(keys):
            if key in keys[:position]:
                raise _refusal(f"key {key!r} is given twice", node)
        return super().construct_mapping(node, deep=deep)


def _refusal(problem: str, place: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


def load_config(path: Path, model: type[Config]) -> Config:
    """Read a YAML file into ``model``, whose ``extra="forbid"`` refuses unknown keys; nothing is ever evaluated.

    Raises ConfigError for a file that is missing, too large, not YAML, tagged, or not what ``model`` describes.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(SIZE_LIMIT + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    if len(raw) > SIZE_LIMIT:
        raise ConfigError(f"{path.name} is larger than {SIZE_LIMIT} bytes; a configuration is a few kilobytes")
    return parse_config(raw, model, path.name)


def parse_config(text: str | bytes, model: type[Config], name: str = "configuration") -> Config:
    """The same for YAML text; ``name`` is what messages call it. Raises ConfigError."""
    try:
        values = yaml.load(text, Loader=_PlainLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise ConfigError(f"{name} is not a plain YAML file: {_one_line(error)}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{name} holds {type(values).__name__}; a configuration is a mapping of keys to values")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{name}: {_first(error, model)}") from error


def _one_line(error: Exception) -> str:
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else ""
    return f"{problem or ' '.join(str(error).split())}{where}"


def _first(error: ValidationError, model: type[BaseModel]) -> str:
    """The first fault in one line; for an unknown key with those there are."""
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = f"; keys are: {', '.join(model.model_fields)}" if len(fault["loc"]) == 1 else ""
        return f"unknown key {where!r}{known}"
    if fault["type"] == "missing":
        return f"the key {where!r} is missing"
    return f"{where} = {fault['input']!r}: {fault['msg']}"
