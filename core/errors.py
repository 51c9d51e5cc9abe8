"""The exceptions of agentcgroup, all of them."""

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
    """Base of everything this package raises on its own account."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Cross to other processes whole: pools would call the class with the message alone."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[Any], args: tuple[Any, ...], attributes: dict[str, Any]) -> Any:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


class ConfigError(AgentCgroupError):
    """Raised when a configuration cannot be used.

    Attributes:
        file: path of the file, or the name of the source (``config=``, an environment variable).
        line: 1-based line in the file, None where the source has no lines.
        key: dotted key that is wrong, None when the file as a whole is.
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
    """What this machine, or this process, cannot give.

    Attributes:
        reason: what is missing, as a sentence.
        fix: what would change it, None when nothing here can.
    """

    def __init__(self, reason: str, *, fix: str | None = None) -> None:
        super().__init__(reason if fix is None else f"{reason} Fix: {fix}")
        self.reason = reason
        self.fix = fix


class CgroupUnavailable(_Unavailable):
    """Raised when containment was asked for and this machine, or this process, cannot give it."""


class BpfUnavailable(_Unavailable):
    """Raised when monitoring by BPF was asked for and it cannot be had."""


class LimitExceeded(AgentCgroupError):
    """Raised when a call was stopped by one of its limits; its text is the feedback sentence.

    Attributes:
        record: the record of the call, as far as it was known when the limit struck.
    """

    def __init__(self, message: str, *, record: CallRecord) -> None:
        super().__init__(message)
        self.record = record


class Unshippable(AgentCgroupError):
    """Raised when something of a call cannot get into its worker process, or out of it.

    Attributes:
        what: where the object stands, such as "argument 'db'.connection".
        kind: its type, such as "sqlite3.Connection".
        why: what the pickler said against it.
        ran: whether the tool's body has run, so that running it inline would be a second time.
    """

    def __init__(self, what: str, kind: str, why: str, *, ran: bool = False) -> None:
        where = "out of" if ran else "into"
        super().__init__(
            f"{what} ({kind}) cannot be sent {where} a worker process: {why}. Fix: make it inside "
            'the tool, or run the tool with isolation = "inline".'
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

    What ended it says the call's record: a limit, or the body itself.

    Attributes:
        how: "crashed: SIGSEGV" or "exited: 3", with the signal's name or the exit status; or
            "lost: ..." where it was taken down with others.
    """

    def __init__(self, how: str) -> None:
        super().__init__(f"the worker process of the call ended before it had answered: {how}")
        self.how = how

    def __reduce__(self) -> tuple[Any, ...]:
        return WorkerDied, (self.how,)


class RemoteError(AgentCgroupError):
    """Stands in for an exception of a worker process that could not be sent.

    Its text is that exception's type and text; the traceback is in its ``__cause__``.
    """
