"""Batches in their order, whoever makes them."""

from __future__ import annotations

import threading
from itertools import islice

import pytest
import torch

from medsr.training.ahead import Lesson, made_ahead
from medsr.training.data import Batch

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")),
]


def numbered(step: int, device: str) -> Lesson:
    one = torch.full((1, 1, 4, 4), float(step), device=device)
    return Lesson(Batch(one, one, one, one[:, 0, 0], one[:, 0, 0, 0]), one[:, 0, 0, 0])


@pytest.mark.parametrize("device", DEVICES)
def test_steps_come_in_their_order_from_the_first(device):
    lessons = made_ahead(lambda step: numbered(step, device), 5, torch.device(device))
    assert [int(lesson.scale) for lesson in islice(lessons, 4)] == [5, 6, 7, 8]
    lessons.close()


def test_without_a_gpu_nothing_is_made_before_it_is_asked_for_and_by_no_other_thread():
    made, threads = [], set()

    def make(step: int) -> Lesson:
        made.append(step)
        threads.add(threading.get_ident())
        return numbered(step, "cpu")

    lessons = made_ahead(make, 0, torch.device("cpu"))
    next(lessons)
    next(lessons)
    assert made == [0, 1]
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("device", DEVICES)
def test_an_error_reaches_the_loop(device):
    def make(step: int) -> Lesson:
        if step == 2:
            raise ValueError("no such step")
        return numbered(step, device)

    lessons = made_ahead(make, 0, torch.device(device))
    with pytest.raises(ValueError, match="no such step"):
        list(lessons)
