"""Decoding compressed pixels in a process that a malformed codestream may kill.

The decoders are native code: a codestream can make them crash, hang or ask for all memory there is. So a second process
decodes, under a limit of time and memory; when it ends, that costs the one file, and a new process takes the next.
A process is started when the first file is decoded, one for each thread that decodes, and ends with it.

It is a plain subprocess that speaks over pipes, not one of `multiprocessing`'s: so a daemonic worker may have one, and
the caller's main module isn't run again. `python -m fastliver.data.decoding` is its main program.
"""

import json
import os
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fastliver.errors import InputError, RunError

SECONDS = 4.0
"""A file may take this long, and a second longer for each `BYTES_A_SECOND` that it decodes to."""

BYTES_A_SECOND = 1 << 20

MEMORY = 1 << 29
"""Bytes that decoding may take beside `MEMORY_FACTOR` times what the pixels take."""

MEMORY_FACTOR = 8
LENGTH = struct.Struct("<Q")
COMMAND = (sys.executable, "-m", "fastliver.data.decoding")


class Decoder:
    """A process that decodes one file after the other; it is started when it is needed."""

    def __init__(self, seconds: float = SECONDS, command: Sequence[str] = COMMAND) -> None:
        self.seconds, self.command = seconds, command
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def decode(self, path: Path, expected_bytes: int) -> NDArray[Any]:
        """The pixels of a file as pydicom's `pixel_array` has them.

        Args:
            path: a DICOM file.
            expected_bytes: what its header says that the pixels take; sets the limits.

        Raises:
            InputError: when they can't be decoded, or not within the limits.
            RunError: when no process can be started.
        """
        process = self._started()
        seconds = self.seconds + expected_bytes / BYTES_A_SECOND
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, stop)
        timer.daemon = True
        timer.start()
        try:
            _send(process.stdin, json.dumps([str(path.absolute()), expected_bytes]).encode())
            found = json.loads(_receive(process.stdout))
            content = _receive(process.stdout) if "shape" in found else b""
        except (OSError, EOFError, ValueError):
            timer.cancel()
            self.close()
            reason = (
                f"it takes more than {seconds:.0f} s" if late.is_set()
                else f"the decoder ended with code {process.returncode}"
            )  # fmt: skip
            raise InputError(f"{path}: PixelData can't be decoded ({reason}); copy the file again") from None
        finally:
            timer.cancel()
        if "error" in found:
            raise InputError(f"{path}: PixelData can't be decoded ({found['error']}); copy the file again")
        return np.frombuffer(content, found["dtype"]).reshape(found["shape"])

    def _started(self) -> "subprocess.Popen[bytes]":
        if self._process is None or self._process.poll() is not None or self._owner != os.getpid():
            # After a fork the parent's process is none of ours.
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
            )  # fmt: skip
            self._owner = os.getpid()
            weakref.finalize(self, _end, self._process, self._owner)
            try:
                _receive(self._process.stdout)  # it says when it is ready: importing isn't decoding
            except EOFError:
                raise RunError(
                    f"{' '.join(self.command)}: the process that decodes images ended at once with code "
                    f"{self._process.wait()}; try the command to see why"
                ) from None
        return self._process

    def close(self) -> None:
        """End the process; the next file starts another."""
        if self._process is not None:
            _end(self._process, self._owner)
            self._process = None


def _end(process: "subprocess.Popen[bytes]", owner: int) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    if owner == os.getpid():
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):  # a request that nobody reads any more
                pipe.close()


_decoders = threading.local()


def decode_isolated(path: Path, expected_bytes: int) -> NDArray[Any]:
    """`Decoder.decode` with this thread's own process."""
    if not hasattr(_decoders, "decoder"):
        _decoders.decoder = Decoder()
    return _decoders.decoder.decode(path, expected_bytes)


def _send(stream: Any, content: bytes | memoryview) -> None:
    stream.write(LENGTH.pack(len(content)))
    stream.write(content)
    stream.flush()


def _receive(stream: Any) -> bytes:
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        raise EOFError
    (length,) = LENGTH.unpack(head)
    content = stream.read(length)
    if len(content) < length:
        raise EOFError
    return content


def _limit_memory(size: int) -> None:
    """Let this process take `size` bytes more than it has."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + size, hard))
    except (ImportError, OSError, ValueError):
        pass  # not a Linux: the limit of time has to do


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Decode files until the requests end."""
    import warnings

    import pydicom
    import pydicom.pixels

    warnings.simplefilter("ignore")
    _send(answers, b"ready")
    while True:
        try:
            path, expected = json.loads(_receive(requests))
        except EOFError:
            return
        try:
            _limit_memory(MEMORY + MEMORY_FACTOR * expected)
            pixels = np.ascontiguousarray(pydicom.dcmread(path).pixel_array)
        except Exception as error:
            _send(answers, json.dumps({"error": " ".join(str(error).split())[:300] or type(error).__name__}).encode())
            continue
        _send(answers, json.dumps({"dtype": pixels.dtype.str, "shape": pixels.shape}).encode())
        _send(answers, pixels.data.cast("B") if pixels.size else b"")


def main() -> None:
    """Serve on standard input and output; what native code prints goes nowhere."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
