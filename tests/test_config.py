from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from medsr.config import SIZE_LIMIT, load_config, parse_config
from medsr.errors import ConfigError


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    width: int = 64


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    rate: float = 1.0
    inner: Inner = Inner()
    stages: tuple[Inner, ...] = ()


def test_values_defaults_and_nesting(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("name: base\nrate: 8.0e-4\nstages: [{width: 3}, {}]  # a comment\n", encoding="utf-8")
    assert load_config(path, Outer) == Outer(name="base", rate=8e-4, stages=(Inner(width=3), Inner(width=64)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nraet: 2", "unknown key 'raet'; keys are: name, rate, inner, stages"),
        ("name: a\ninner: {widht: 2}", "unknown key 'inner.widht'"),
        ("rate: 2", "the key 'name' is missing"),
        ("name: a\nrate: fast", "rate = 'fast'"),
        ("name: a\nname: b", "key 'name' is given twice"),
        ("name: [a", "line 1"),
        ("- a\n- b", "holds list"),
        ("", "holds NoneType"),
        ("name: a\n---\nname: b", "plain YAML"),
        ("name: \x00", "plain YAML"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, Outer, "x.yaml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("x.yaml")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "text",
    [
        "name: !!python/object/apply:os.system ['touch {marker}']",
        "name: !!python/name:os.system",
        "!!python/object:medsr.errors.MedsrError {{}}",
        "name: !!str a",
        "name: !local a",
        "inner: !!set {{width}}",
    ],
)
def test_tags_are_refused_and_run_nothing(text: str, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    with pytest.raises(ConfigError, match=r"tag .* is not allowed"):
        parse_config(text.format(marker=marker), Outer)
    assert not marker.exists()


def test_alias_bomb_is_refused() -> None:
    text = "a: &a [x,x,x]\nb: &b [*a,*a,*a]\nname: [*b,*b,*b]"
    with pytest.raises(ConfigError, match="aliases are not allowed"):
        parse_config(text, Outer)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(ConfigError):
        parse_config("name: " + "[" * 20000, Outer)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path / "missing.yaml", Outer)
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path, Outer)
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (SIZE_LIMIT + 1))
    with pytest.raises(ConfigError, match="larger than"):
        load_config(large, Outer)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"name: \xff\xfe\x00")
    with pytest.raises(ConfigError, match="plain YAML"):
        load_config(binary, Outer)
