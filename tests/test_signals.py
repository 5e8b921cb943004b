"""Signals are handled where nothing is half done."""

from __future__ import annotations

import pkgutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import streamloss
from streamloss.running.measure import Accumulator
from streamloss.running.signals import Held

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM])
def number(request: pytest.FixtureRequest) -> Any:
    """A signal that raises KeyboardInterrupt."""
    before = signal.signal(request.param, signal.default_int_handler)
    yield request.param
    signal.signal(request.param, before)


def test_a_signal_waits_for_the_end_of_the_block(number: int) -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), Held():
        signal.raise_signal(number)
        done.append(1)
    assert done == [1] and signal.getsignal(number) is signal.default_int_handler


def test_a_signal_waits_for_a_check(number: int) -> None:
    done = []
    with Held() as signals:
        signals.check()
        signal.raise_signal(number)
        done.append(1)
        with pytest.raises(KeyboardInterrupt):
            signals.check()
        done.append(2)
    assert done == [1, 2]


def test_within_another_block(number: int) -> None:
    """The inner block hands on to the outer one what has come."""
    done = []
    with pytest.raises(KeyboardInterrupt), Held():
        with Held():
            signal.raise_signal(number)
        done.append(1)
    assert done == [1]


def test_an_error_of_the_block_is_the_reason_of_the_interrupt(number: int) -> None:
    with pytest.raises(KeyboardInterrupt) as found, Held():
        signal.raise_signal(number)
        raise ValueError
    assert isinstance(found.value.__context__, ValueError)


def test_handlers_that_are_not_pythons_are_left_alone() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with Held():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_other_threads_have_no_signals() -> None:
    def inside() -> Any:
        with Held() as signals:
            signals.check()
            return signal.getsignal(signal.SIGINT)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(inside).result() is signal.getsignal(signal.SIGINT)


def test_no_lock_is_left_behind(number: int) -> None:
    lock = threading.Lock()

    class Taken:
        """A lock whose signal comes when it is taken, and the block that gives it back has not begun."""

        def __enter__(self) -> None:
            lock.acquire()
            signal.raise_signal(number)

        def __exit__(self, *_: object) -> None:
            lock.release()

    with pytest.raises(KeyboardInterrupt), Taken():
        pass
    assert lock.locked()  # what this is about
    lock.release()
    with pytest.raises(KeyboardInterrupt), Held(), Taken():
        pass
    assert not lock.locked()


def measured(**given: Any) -> None:
    streamloss.evaluate(DATA / "cancer.parquet", prob="prob", label="label", batch_rows=50, **given)


def executed() -> None:
    with ThreadPoolExecutor(2) as pool:
        measured(executor=pool)


def kept(path: Path) -> None:
    add = Accumulator.add

    def slowly(*given: Any) -> None:  # so that there is time to keep something
        time.sleep(0.1)
        add(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Accumulator, "add", slowly)
        measured(checkpoint=path / "kept", checkpoint_every=0, threads=2)


def scored(path: Path) -> None:
    streamloss.score(DATA / "cancer.parquet", path / "out.parquet", prob="prob", label="label", batch_rows=50)


@pytest.mark.parametrize(
    ("where", "run"),
    [
        ("local:wait", lambda _: measured()),
        ("local:wait", lambda _: measured(threads=2, progress=lambda _: None)),
        ("local:_Gate.nobody_inside", kept),
        ("parts:wait", lambda _: executed()),
        ("ordered:_Line.take", scored),
        ("ordered:_Line.stop", scored),
    ],
)
def test_runs_are_interrupted_between_two_steps(where: str, run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A signal comes where the main thread has to do with locks, and is handled when it has done."""
    done, inside = [], pkgutil.resolve_name(f"streamloss.running.{where}")

    def disturbed(*args: Any, **given: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        done.append(1)
        return inside(*args, **given)

    monkeypatch.setattr(f"streamloss.running.{where.replace(':', '.')}", disturbed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert done
