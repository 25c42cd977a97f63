"""Streams to and from a program in a sandbox, with a deadline for every call."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from typing import Any, Protocol

from aem_gym.envs.swe.sandbox.base import SandboxError

_CHUNK = 1 << 16
_HEADER = struct.Struct(">BxxxL")
"""Of a frame: which stream it belongs to (1 output, 2 errors), and its length."""


class Stream(Protocol):
    """A program's input and its output, standard error included."""

    def send(self, data: bytes, deadline: float) -> None:
        """Write all of it. Raises TimeoutError, and EOFError if nobody reads any more."""
        ...

    def receive(self, deadline: float) -> bytes:
        """What comes next, at least one byte; nothing at the end. Raises TimeoutError."""
        ...

    def finish(self) -> None:
        """Say that no more input comes."""
        ...

    def close(self) -> None:
        """Let go of it; raises nothing."""
        ...


class EngineStream:
    """A program that an engine runs, through the connection that the engine attached to it."""

    def __init__(self, response: Any) -> None:
        # What the SDK returns is the raw socket; the reader of the response's head may hold bytes
        # that came right behind it.
        self._response = response
        self._socket: socket.socket = response._sock
        self._socket.setblocking(False)
        reader = response._response.raw._fp.fp
        with contextlib.suppress(BlockingIOError):
            early = reader.peek(1)
        self._frames = bytearray(early or b"")

    def send(self, data: bytes, deadline: float) -> None:
        """Write all of it; what comes meanwhile is kept."""
        view = memoryview(data)
        while view:
            readable, writable, _ = select.select(
                [self._socket], [self._socket], [], max(0.0, deadline - time.monotonic())
            )
            if not readable and not writable:
                raise TimeoutError
            try:
                if readable and not self._fill():
                    raise EOFError
                if writable:
                    view = view[self._socket.send(view) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise EOFError from error

    def receive(self, deadline: float) -> bytes:
        """The payload of the frames that are there, errors and output as they came."""
        while True:
            if payload := self._payload():
                return payload
            if not self._wait(deadline):
                raise TimeoutError
            try:
                if not self._fill():
                    return b""
            except BlockingIOError:
                continue
            except OSError:
                return b""

    def finish(self) -> None:
        """Close our side of the connection."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self._socket.close()
        with contextlib.suppress(Exception):  # of several libraries
            self._response._response.close()

    def _wait(self, deadline: float) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))

    def _fill(self) -> int:
        data = self._socket.recv(_CHUNK)
        self._frames += data
        return len(data)

    def _payload(self) -> bytes:
        """What whole and begun frames hold; a begun one's header then says what is missing."""
        found, frames = bytearray(), self._frames
        while len(frames) >= _HEADER.size:
            kind, length = _HEADER.unpack_from(frames)
            if kind > 2:
                raise SandboxError(f"expected frames of the engine, got one of kind {kind}")
            part = frames[_HEADER.size : _HEADER.size + length]
            found += part
            if len(part) == length:
                del frames[: _HEADER.size + length]
            elif part:
                frames[: _HEADER.size + len(part)] = _HEADER.pack(kind, length - len(part))
            else:
                break
        return bytes(found)
