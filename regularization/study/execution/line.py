"""The line from a worker on a cluster to its coordinator, over which it can be stopped at any time."""

import contextlib
import os
import signal
import socket
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from typing import Any

# To a worker; trials, judgements and None are said to it besides.
STOP = "stop"


class Line:
    """A connection that is listened to all the time: to stop is said in the middle of a trial, and raises SIGINT."""

    def __init__(self, connection: "Connection[Any, Any]") -> None:
        self._connection = connection
        self._heard: SimpleQueue[Any] = SimpleQueue()
        self.send = connection.send
        Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> "Line":
        return self

    def __exit__(self, *_: object) -> None:
        # Closed alone, it would stay open for as long as the thread waits at it.
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)

    def recv(self) -> Any:
        """The next message.

        Raises:
            EOFError, OSError: When the line has broken, each time.
        """
        message = self._heard.get()
        if isinstance(message, Exception):
            self._heard.put(message)
            raise message
        return message

    def _listen(self) -> None:
        try:
            while True:
                if (message := self._connection.recv()) == STOP:
                    os.kill(os.getpid(), signal.SIGINT)
                else:
                    self._heard.put(message)
        except Exception as error:  # what can't be read is for whoever waits for it
            self._heard.put(error)
