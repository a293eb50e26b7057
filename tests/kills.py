"""Killing in tests: a process that ends just before one of its changes of the disk, for each change in turn."""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn

_CHANGES = {"os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.chmod", "os.link", "os.truncate"}


def _is_change(event: str, args: tuple) -> bool:
    return event in _CHANGES or (event == "open" and bool(args[2] & (os.O_WRONLY | os.O_RDWR)))


def killed(work: Callable[[], object], number: int) -> bool:
    """Run the work in a child process that is killed before the change of this number; return whether it was killed."""
    pid = os.fork()
    if pid == 0:
        left = number

        def watch(event: str, args: tuple) -> None:
            nonlocal left
            if _is_change(event, args):
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(watch)
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


class Dead(BaseException):
    """The exception in a thread that can change nothing any more."""


_num_left: list[float] = []  # one number while `stunned` runs


def _stun(event: str, args: tuple) -> None:
    if _num_left and _is_change(event, args):
        _num_left[0] -= 1
        if _num_left[0] < 0:
            raise Dead


def stunned(work: Callable[[], object], number: int) -> bool:
    """Do as `killed`, for libraries whose threads do not survive a fork: every change from this one on is refused."""
    if not hasattr(stunned, "is_watching"):
        sys.addaudithook(_stun)  # there is no way to remove it
        stunned.is_watching = True  # type: ignore[attr-defined]
    _num_left.append(number)
    try:
        work()
    except Dead:
        return True
    finally:
        _num_left.clear()
    return False


def die(*args: object, **kwargs: object) -> NoReturn:
    """End work of `stunned` here: nothing is changed after this call, not by cleanup either."""
    _num_left[0] = 0
    raise Dead


def kill_everywhere(
    prepare: Callable[[], object], work: Callable[[], object], kill: Callable[..., bool] = killed
) -> Iterator[int]:
    """Prepare, and kill the work at each of its changes in turn; after each, the caller checks the remaining files."""
    number = 0
    prepare()
    while kill(work, number):
        yield number
        number += 1
        prepare()
    assert number > 0
