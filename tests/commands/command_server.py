"""Runs `python -m fastliver.<command>` many times for one import of torch: each command is a fork of this process.

A command sees what it sees when started from a shell: its own process, arguments, environment, standard streams and
limits, and it is executed as `__main__`. Only the report's figures, which cost more than a tiny training, are left out
unless they are asked for. Requests come as JSON lines on stdin, answers go to stdout.
"""

import ctypes
import importlib
import json
import os
import resource
import runpy
import signal
import sys
import traceback
from typing import Any

PRELOAD = (
    "torch._dynamo",
    "torch.utils.tensorboard",
    "matplotlib.backends.backend_agg",
    "matplotlib.pyplot",
    "sklearn.metrics",
    "rich.progress",
    "fastliver.cli",
    "fastliver.data.phantom",
    "fastliver.reporting",
    "fastliver.training.estimate",
    "fastliver.training.stages",
)
NEW_NETWORK = 0x40000000  # CLONE_NEWNET of <linux/sched.h>
NOT_ALLOWED = 77


def kill_at_write(count: int) -> None:
    """Let the process die by SIGKILL in the middle of its `count`-th fsync or rename."""
    left = count

    def dying(function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    os.fsync, os.replace = dying(os.fsync), dying(os.replace)


def become(request: dict[str, Any]) -> None:
    """Turn this fork into the command of the request."""
    os.setsid()
    if request["terminal"] is not None:
        streams = [os.open(request["terminal"], os.O_RDWR)] * 3
    else:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        streams = [os.open(os.devnull, os.O_RDONLY), *(os.open(request[name], flags) for name in ("out", "err"))]
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.environ.update(request["environment"])
    if request["largest_file"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"], request["largest_file"]))
    if request["offline"] and ctypes.CDLL(None, use_errno=True).unshare(NEW_NETWORK) != 0:
        os._exit(NOT_ALLOWED)
    if request["kill_at_write"] is not None:
        kill_at_write(request["kill_at_write"])
    if not request["figures"]:
        importlib.import_module("fastliver.reporting").make_pictures = lambda run: []
    sys.argv = [request["module"], *request["arguments"]]
    code: Any = 0
    try:
        if request["module"].endswith(".py"):
            runpy.run_path(request["module"], run_name="__main__")
        else:
            runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    except SystemExit as exit_:
        code = exit_.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def answer(request: dict[str, Any]) -> int | None:
    """Start a command and give its process id, or give the exit code of one, None while it runs."""
    if "poll" in request:
        pid, status = os.waitpid(request["poll"], os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None
    pid = os.fork()
    if pid == 0:
        become(request)
    return pid


if __name__ == "__main__":
    for name in PRELOAD:
        importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
