"""How requests reach an engine that is generating."""

import threading

from actors.requests import Request


class Intake:
    """Passes requests from the thread that receives them to the thread that generates."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._call: int | None = None  # the call to `generate` that takes requests
        self._requests: list[Request] = []

    def open(self, call: int, requests: list[Request]) -> None:
        with self._lock:
            self._call, self._requests = call, list(requests)

    def add(self, call: int, requests: list[Request]) -> None:
        with self._lock:
            if call == self._call:
                self._requests += requests

    def take(self, close: bool) -> list[Request]:
        """Return the new requests. If there are none, and `close`, accept no more."""
        with self._lock:
            taken, self._requests = self._requests, []
            if close and not taken:
                self._call = None
            return taken
