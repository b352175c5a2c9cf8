"""The parent's hold on one decoding process: starts it, talks to it, watches it, kills it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stages.decode.stage import DecodeConfig
from store import errors

_POLL_S = 0.05
_RECEIVE_BYTES = 1 << 16
# A process closes its descriptors a moment before it can be waited for.
_EXIT_S = 5.0
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class DecodeProcessError(Exception):
    """The process cannot go on. ``kind`` is that of a ``VideoFailure``, ``seconds`` were spent on the last video."""

    def __init__(self, kind: str, message: str, seconds: float) -> None:
        super().__init__(message)
        self.kind, self.seconds = kind, seconds


class DecodeProcess:
    """A running ``stages.decode.child`` with its backend imported."""

    def __init__(self, config: DecodeConfig, segments: Sequence[int]) -> None:
        """Start it with the inherited descriptors ``segments`` and wait until it is ready.

        Raises ``UsageError`` or ``MissingError`` as ``Decoder.setup`` does, ``UsageError`` where the process dies, and
        ``RetryError`` where it dies of what the environment may be to blame for.
        """
        self._watch = _Watch(config)
        self._buffer = bytearray()
        self._interrupted = False
        self._connection, theirs = socket.socketpair()
        with theirs:
            inherited = [theirs.fileno(), *segments]
            arguments = [str(theirs.fileno()), str(os.getpid()), *map(str, segments)]
            # What decoders print goes nowhere: standard output belongs to the caller, and codecs are chatty.
            talkative = None if os.environ.get("VILP_DEBUG") else subprocess.DEVNULL
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "stages.decode.child", *arguments],
                pass_fds=inherited,
                stdin=subprocess.DEVNULL,
                stdout=2 if talkative is None else subprocess.DEVNULL,
                stderr=talkative,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)), **_ONE_THREAD},
                start_new_session=True,
            )
        self.pid = process.pid
        self._kill = weakref.finalize(self, _kill, process, self._connection)
        try:
            self.send(dataclasses.asdict(config))
            answer = self.receive()
        except (OSError, DecodeProcessError) as error:
            self.kill()
            if isinstance(error, DecodeProcessError) and error.kind in errors.RetryError.KINDS:
                raise errors.RetryError(f"the decoding process cannot start: {error}", kind=error.kind) from None
            raise errors.UsageError(f"decoder {config.backend!r}: its process ends at once: {error}") from None
        if "error" in answer:
            self.kill()
            raise getattr(errors, answer["type"])(answer["error"], kind=answer["kind"])

    def send(self, message: dict[str, Any]) -> None:
        """Send one message; raises ``OSError`` where the process is gone."""
        self._connection.sendall(json.dumps(message).encode("ascii") + b"\n")

    def receive(self) -> dict[str, Any]:
        """The next message. Raises ``DecodeProcessError`` where the process dies or breaks a limit: kill it then."""
        while (stop := self._buffer.find(b"\n")) < 0:
            if self._interrupted:
                raise DecodeProcessError("timeout", "the decoding was interrupted", self._watch.seconds)
            if not select.select([self._connection], [], [], _POLL_S)[0]:
                self._watch.check(self.pid)
                continue
            try:
                received = self._connection.recv(_RECEIVE_BYTES)
            except ConnectionResetError:
                received = b""
            if not received:
                raise self._death()
            self._buffer += received
        message: dict[str, Any] = json.loads(self._buffer[:stop])
        del self._buffer[: stop + 1]
        if "failed" in message:
            raise DecodeProcessError(message["kind"], message["failed"], self._watch.seconds)
        self._watch.progress(message)
        return message

    def kill(self) -> None:
        """End the process and all that it started, and leave no zombie. Can be called again."""
        self._kill()

    def interrupt(self) -> None:
        """Kill the process from another thread than the one that waits in ``receive``, which then raises."""
        self._interrupted = True  # a process that hangs in a read from a disk does not die of a signal
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def _death(self) -> DecodeProcessError:
        pidfd = os.pidfd_open(self.pid)
        select.select([pidfd], [], [], _EXIT_S)
        os.close(pidfd)
        # WNOWAIT leaves the zombie, which keeps the number of the process group from being used again.
        status = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        seconds = self._watch.seconds
        if status is None:
            return DecodeProcessError("decoder-crash", "the decoder closed descriptors that are not its own", seconds)
        if status.si_code == os.CLD_EXITED:
            message = f"the decoder ended its process with exit code {status.si_status}"
            return DecodeProcessError("decoder-crash", message, seconds)
        if status.si_status == signal.SIGKILL:
            message = "the decoding process was killed from outside, as the kernel does when memory is short"
            return DecodeProcessError("out-of-memory", message, seconds)
        name = signal.Signals(status.si_status).name
        return DecodeProcessError("decoder-crash", f"the decoder died of {name}", seconds)


class _Watch:
    """Holds a process to its limits while its parent waits for it."""

    def __init__(self, config: DecodeConfig) -> None:
        self._config = config
        self._cpu_at_start = 0.0
        self._seen = _Usage()
        self._idle = 0.0
        self._began = self._looked = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the current video was begun, as far as the parent knows."""
        return time.monotonic() - self._began

    def progress(self, message: dict[str, Any]) -> None:
        """A message has come: the process lives, and may have begun the next video."""
        self._idle = 0.0
        self._looked = time.monotonic()
        if "start" in message:
            self._cpu_at_start, self._began = message["cpu"], self._looked

    def check(self, pid: int) -> None:
        """Raise ``DecodeProcessError`` where the process took too much CPU time or memory, or did nothing for long."""
        before, self._seen = self._seen, _usage(pid)
        used, now = self._seen, time.monotonic()
        # A suspended machine or a stopped parent shows as one long gap between two looks: it counts as a short one.
        gap, self._looked = min(now - self._looked, 2 * _POLL_S), now
        # A slow disk gives few bytes and takes hardly any CPU time. A process that somebody stopped is not to blame.
        moved = used.cpu > before.cpu or used.bytes_read > before.bytes_read or used.state in "RTt"
        self._idle = 0.0 if moved else self._idle + gap
        config = self._config
        if used.cpu - self._cpu_at_start > config.cpu_deadline_s:
            seconds = f"{config.cpu_deadline_s:g} seconds of CPU time"
            message = f"the decoder took more than {seconds}; where the video is long, raise --decode-seconds"
            raise DecodeProcessError("decoder-timeout", message, self.seconds)
        if self._idle > config.deadline_s:
            message = f"no progress for {config.deadline_s:g} seconds, nothing read or computed: the disk may hang"
            raise DecodeProcessError("timeout", message, self.seconds)
        if used.private_bytes > config.memory_bytes:
            message = f"the decoder took more than {config.memory_bytes} bytes of memory"
            raise DecodeProcessError("decoder-memory", message, self.seconds)


_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class _Usage:
    """State letter of a process, and what it has used: CPU seconds, bytes read in all, private bytes of memory."""

    state: str = "Z"
    cpu: float = 0.0
    bytes_read: int = 0
    private_bytes: int = 0


def _usage(pid: int) -> _Usage:
    """From procfs; a dead process has used nothing."""
    try:
        with open(f"/proc/{pid}/stat") as stat, open(f"/proc/{pid}/statm") as statm:
            # The name of the command, in parentheses, may hold anything.
            fields = stat.read().rpartition(")")[2].split()
            pages = statm.read().split()
    except (FileNotFoundError, ProcessLookupError):
        return _Usage()
    cpu = (int(fields[11]) + int(fields[12])) / _TICKS
    return _Usage(fields[0], cpu, _bytes_read(pid), (int(pages[1]) - int(pages[2])) * _PAGE_BYTES)


def _bytes_read(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/io") as io:
            return int(io.readline().removeprefix("rchar: "))
    except OSError:  # not every kernel counts them
        return 0


def _kill(process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    connection.close()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # A read from a disk that hangs cannot be interrupted: such a process dies when the disk answers or goes away.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_EXIT_S)
