"""A TCP proxy before a server, to be cut and mended, frozen and thawed: what a gateway sees of a database that stops."""

from __future__ import annotations

import contextlib
import select
import socket
import threading


class Proxy:
    """Carries bytes between its own port and `host`:`port` while it is whole. Cut, it drops every connection and takes none."""

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._flows = threading.Event()
        self._flows.set()
        self._listener: socket.socket | None = None
        self.port = 0
        self.mend()

    def mend(self) -> None:
        """Take connections, on the same port as before."""
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._take, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        """Drop everything at once."""
        assert self._listener is not None
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._listener = None
        with self._lock:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def freeze(self) -> None:
        """Hold back every byte, as a server does that is alive and does not answer."""
        self._flows.clear()

    def thaw(self) -> None:
        """Let go of what was held back."""
        self._flows.set()

    def close(self) -> None:
        """Cut it for good."""
        if self._listener is not None:
            self.cut()

    def _take(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(self._to) as server:
            ends = {client: server, server: client}
            with self._lock:
                self._open |= ends.keys()
            try:
                while True:
                    for end in select.select(list(ends), [], [])[0]:
                        self._flows.wait()
                        data = end.recv(65536)
                        if not data:
                            return
                        ends[end].sendall(data)
            finally:
                with self._lock:
                    self._open -= ends.keys()
