"""All exceptions that agentcgroup raises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentcgroup.records.record import CallRecord

__all__ = [
    "AgentCgroupError",
    "BpfUnavailable",
    "CgroupUnavailable",
    "ConfigError",
    "LimitExceeded",
    "RemoteError",
    "Unshippable",
    "WorkerDied",
]


class AgentCgroupError(Exception):
    """Base class of the exceptions of this package."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle all attributes, too: by default, pickle calls the class with the message alone."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[Any], args: tuple[Any, ...], attributes: dict[str, Any]) -> Any:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


class ConfigError(AgentCgroupError):
    """Raised when a configuration has an error.

    Attributes:
        file: path of the file, or the name of the source (``config=``, an environment variable).
        line: line in the file, counted from 1; None if the source has no lines.
        key: dotted key that has the error; None if the error is in the file as a whole.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        line: int | None = None,
        key: str | None = None,
    ) -> None:
        where = file or ""
        if where and line is not None:
            where = f"{where}:{line}"
        super().__init__(": ".join(part for part in (where, key, message) if part))
        self.message = message
        self.file = file
        self.line = line
        self.key = key


class _Unavailable(AgentCgroupError):
    """Base class of the exceptions for what this machine, or this process, does not support.

    Attributes:
        reason: what is missing, as a sentence.
        fix: what the user can do about it; None if nothing on this machine can.
    """

    def __init__(self, reason: str, *, fix: str | None = None) -> None:
        super().__init__(reason if fix is None else f"{reason} Fix: {fix}")
        self.reason = reason
        self.fix = fix


class CgroupUnavailable(_Unavailable):
    """Raised when a run or a call needs containment that this machine, or process, cannot give.

    ``mode = "enforce"`` needs all of it. A call needs a cgroup wherever the run has one.
    """


class BpfUnavailable(_Unavailable):
    """Raised when monitoring by BPF was requested and this machine does not support it."""


class LimitExceeded(AgentCgroupError):
    """Raised when a limit stopped a call; its text is the sentence that the model gets.

    Attributes:
        record: the record of the call, as complete as it was when the exception was raised.
    """

    def __init__(self, message: str, *, record: CallRecord) -> None:
        super().__init__(message)
        self.record = record


class Unshippable(AgentCgroupError):
    """Raised when an object cannot be pickled for the worker process of a call, or for the app.

    Attributes:
        what: the path to the object, such as "argument 'db'.connection".
        kind: the type of the object, such as "sqlite3.Connection".
        why: the error of the pickler.
        ran: whether the tool's body has run; an inline run would then be the second.
    """

    def __init__(self, what: str, kind: str, why: str, *, ran: bool = False) -> None:
        where = "out of" if ran else "into"
        super().__init__(
            f"{what} ({kind}) cannot be sent {where} a worker process: {why}. Fix: create it "
            'inside the tool, or run the tool with isolation = "inline".'
        )
        self.what = what
        self.kind = kind
        self.why = why
        self.ran = ran

    def __reduce__(self) -> tuple[Any, ...]:
        return _unshippable, (self.what, self.kind, self.why, self.ran)


def _unshippable(what: str, kind: str, why: str, ran: bool) -> Unshippable:
    return Unshippable(what, kind, why, ran=ran)


class WorkerDied(AgentCgroupError):
    """Raised when the worker process of a call ended before the tool's body did.

    The record of the call names the cause: a limit, or the body itself.

    Attributes:
        how: "crashed: SIGSEGV" with the name of the signal, "exited: 3" with the exit status, or
            "lost: ..." if the worker ended together with the fork server.
    """

    def __init__(self, how: str) -> None:
        super().__init__(f"the worker process of the call ended before it sent a result: {how}")
        self.how = how

    def __reduce__(self) -> tuple[Any, ...]:
        return WorkerDied, (self.how,)


class RemoteError(AgentCgroupError):
    """Replaces an exception of a worker process that could not be pickled.

    Its text is the type and the text of that exception. Its ``__cause__`` has the traceback.
    """
