"""Parts of a cohort and the lock on a folder of outputs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medsr.errors import ConfigError
from medsr.service.place import Shard, shard_by_text, shard_of_array


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), st.integers(1, 50))
def test_every_scan_belongs_to_exactly_one_part(name: str, count: int) -> None:
    assert sum(Shard(index, count).holds(name) for index in range(1, count + 1)) == 1


def test_parts_are_of_like_size() -> None:
    sizes = [sum(Shard(index, 8).holds(f"sub-{n:04d}/anat/t1.nii.gz") for n in range(2000)) for index in range(1, 9)]
    assert min(sizes) > 200
    assert max(sizes) < 300


@given(st.integers(1, 99), st.integers(1, 99))
def test_text_and_part(index: int, count: int) -> None:
    if index <= count:
        assert shard_by_text(f"{index}/{count}") == Shard(index, count)
    else:
        with pytest.raises(ConfigError):
            shard_by_text(f"{index}/{count}")


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "-1/2", "1/2/3", "a/b", "1.0/2", "1/ 2"])
def test_what_is_no_part(text: str) -> None:
    with pytest.raises(ConfigError, match="--shard"):
        shard_by_text(text)


def slurm(number: int, tasks: list[int], step: int | None) -> dict[str, str]:
    values = {"ID": number, "MIN": min(tasks), "MAX": max(tasks), "COUNT": len(tasks)}
    values |= {} if step is None else {"STEP": step}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


@pytest.mark.parametrize(("tasks", "step"), [([0, 1, 2, 3], 1), ([1, 2, 3], None), ([7], 1), ([0, 4, 8], 4)])
def test_tasks_of_an_array_are_all_parts(tasks: list[int], step: int | None) -> None:
    parts = [shard_of_array(slurm(number, tasks, step)) for number in tasks]
    assert parts == [Shard(index, len(tasks)) for index in range(1, len(tasks) + 1)]


def test_array_with_gaps_is_refused() -> None:
    with pytest.raises(ConfigError, match="gaps"):
        shard_of_array(slurm(5, [1, 5, 7], 1))
    with pytest.raises(ConfigError, match="incomplete"):
        shard_of_array({"SLURM_ARRAY_TASK_ID": "1"})
    assert shard_of_array({}) is None
