"""A signal that asks a program to stop politely: remembered, and asked about between two steps of its work."""

import os
import signal
from typing import Any


class StopSignal:
    """Call it to ask whether one of these signals came.

    `message` is written to stderr when the first does. `insist`: a second signal does not wait, it interrupts as Ctrl-C
    does. `kill`: a second Ctrl-C ends the process where it stands, be it in the middle of a long C call.
    """

    def __init__(self, *numbers: int, message: str, insist: bool = False, kill: bool = False) -> None:
        self.received, self._message, self._insist, self._kill = False, message, insist, kill
        self._before = {number: signal.signal(number, self._receive) for number in numbers}

    def _receive(self, number: int, frame: Any) -> None:
        if self.received and self._insist:
            raise KeyboardInterrupt
        if self._message and not self.received:  # a launcher sends SIGTERM after SIGINT
            os.write(2, f"\n{signal.Signals(number).name}: {self._message}\n".encode())  # print is not for handlers
        self.received = True
        if self._kill and number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)

    def __call__(self) -> bool:
        return self.received

    def restore(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
