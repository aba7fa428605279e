"""A small TCP proxy on the loopback interface that can be told to fail."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Proxy:
    """Passes bytes between a client and ``target`` (a bolt:// address).

    ``mode``: ``pass``; ``hang`` (carries nothing, keeps the connection); ``trickle`` (one byte every 50 ms towards the client);
    ``cut`` (closes after ``after`` more bytes from the client, in the middle of a message).
    """

    target: str
    mode: str = "pass"
    after: int = 0
    carried: int = 0
    _sockets: list[socket.socket] = field(default_factory=list)
    _open: bool = True

    def __enter__(self) -> Proxy:
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    @property
    def uri(self) -> str:
        """Address for the client."""
        return f"bolt://127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        parts = urlsplit(self.target)
        while self._open:
            with contextlib.suppress(OSError):
                client, _ = self._listener.accept()
                server = socket.create_connection((parts.hostname, parts.port))
                self._sockets += [client, server]
                threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, upward: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                while self.mode == "hang" and self._open:
                    time.sleep(0.02)
                if self.mode == "trickle" and not upward:
                    for byte in data:
                        if not self._open:
                            return
                        sink.sendall(bytes([byte]))
                        time.sleep(0.05)
                    continue
                if upward:
                    if self.mode == "cut" and self.carried + len(data) > self.after:
                        sink.sendall(data[: max(0, self.after - self.carried)])
                        break
                    self.carried += len(data)
                sink.sendall(data)
        for end in (source, sink):
            # a close alone says nothing to the other side while another thread waits on the socket
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def __exit__(self, *exception: object) -> None:
        self._open = False
        for one in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
