"""The first signal is noted, the second one does what it always did."""

import signal
import threading

import pytest

from greatmeta_dist.signals import STOP_SIGNALS, noted_stop_signals


@pytest.fixture(autouse=True)
def usual_handlers():
    """SIGTERM raises, so that it does not end the tests; both are put back afterwards."""

    def terminate(number, frame):
        raise SystemExit(number)

    before = {kind: signal.getsignal(kind) for kind in STOP_SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, terminate)
    yield
    for kind, handler in before.items():
        signal.signal(kind, handler)


@pytest.mark.parametrize("first", STOP_SIGNALS)
@pytest.mark.parametrize(
    "second, error", [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_the_first_signal_is_noted_and_the_second_ends_as_usual(first, second, error):
    calls = []
    with noted_stop_signals(lambda: calls.append("asked")) as stop:
        assert not stop.is_received
        signal.raise_signal(first)
        assert stop.is_received
        with pytest.raises(error):
            signal.raise_signal(second)
    assert calls == ["asked"]


def test_after_the_block_signals_do_what_they_did_before():
    before = [signal.getsignal(kind) for kind in STOP_SIGNALS]
    with noted_stop_signals() as stop:
        assert [signal.getsignal(kind) for kind in STOP_SIGNALS] != before
    assert [signal.getsignal(kind) for kind in STOP_SIGNALS] == before
    assert not stop.is_received


def test_what_the_callback_raises_ends_the_block():
    def nothing_to_stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), noted_stop_signals(nothing_to_stop) as stop:
        signal.raise_signal(signal.SIGTERM)
    assert stop.is_received


def test_other_threads_leave_signals_alone():
    before = [signal.getsignal(kind) for kind in STOP_SIGNALS]
    seen = []

    def run():
        with noted_stop_signals() as stop:
            seen.append([signal.getsignal(kind) for kind in STOP_SIGNALS])
            seen.append(stop.is_received)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before, False]
