"""What tests of several files stand on."""

from __future__ import annotations

import signal

import pytest

from streamloss.reading.source import Input

# Whoever starts the tests in the background has SIGINT ignored, and every process that they start would ignore it too.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row group is a part of its own."""
    monkeypatch.setattr(Input, "parts", lambda self, _=0, parts=Input.parts, **given: parts(self, 1, **given))
