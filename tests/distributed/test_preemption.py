"""The first Ctrl-C asks the run to stop after its step, the second ends it at once."""

import signal
import threading

import pytest

from embed.distributed.preemption import watch_signals


def test_the_first_ctrl_c_is_a_request_and_the_second_an_end(capfd):
    before = signal.getsignal(signal.SIGINT)
    with watch_signals() as stop_requested:
        assert stop_requested() is None
        signal.raise_signal(signal.SIGINT)
        assert stop_requested() == signal.SIGINT
        assert "stopping after this step; press Ctrl-C again to end at once" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_no_signal_is_watched():
    requests = []

    def work() -> None:
        with watch_signals() as stop_requested:
            requests.append(stop_requested())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert requests == [None]
