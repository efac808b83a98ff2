"""The first signal asks, the second one ends."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from scorefield.training.interrupts import watched
from tests.faults import in_child


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_sets_the_flag_and_nothing_else(number):
    """An exception out of the handler would tear a step or a save in two."""
    with watched() as interrupt:
        assert interrupt.signal is None
        os.kill(os.getpid(), number)
        assert interrupt.signal == number


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_process_at_once(first, second):
    """Whoever asks twice does not want to wait for a save on a slow disk."""

    def body() -> None:
        with watched():
            os.kill(os.getpid(), first)
            os.kill(os.getpid(), second)
            os._exit(7)

    assert in_child(body) == -second


def test_handlers_are_put_back():
    """A caller's own Ctrl-C must work after training as before, also after an error."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def body() -> None:
        with watched():
            assert signal.getsignal(signal.SIGINT) is not before[0]
            os.kill(os.getpid(), signal.SIGTERM)
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        body()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_elsewhere_than_in_the_main_thread_nothing_is_watched():
    """Python refuses handlers there; a notebook or a server that trains in a thread must work."""
    found = []

    def body() -> None:
        with watched() as interrupt:
            found.append(interrupt.signal)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert found == [None]
