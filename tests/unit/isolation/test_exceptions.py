"""Exceptions of a tool's body: what the app catches is what it would catch inline."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import mcp
import openai
import pydantic
import pytest
from mcp.types import ErrorData

import agentcgroup
from agentcgroup import Session
from agentcgroup.api import begin
from agentcgroup.errors import RemoteError
from agentcgroup.isolation import failures


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    yield begin({"rules": [{"tool": "*", "isolation": "process"}]})
    agentcgroup.unregister()


class Refused(Exception):
    """As packages write them: pickle would call it with the text."""

    def __init__(self, code: int, *, retry_after: float) -> None:
        super().__init__(f"refused with code {code}")
        self.code = code
        self.retry_after = retry_after


class Slotted(Refused):
    """With an attribute outside of ``__dict__``, and a property that none may set."""

    __slots__ = ("where",)

    def __init__(self) -> None:
        super().__init__(3, retry_after=1.5)
        self.where = "here"

    @property
    def is_final(self) -> bool:
        return False


class Missing(OSError):
    """OSError keeps its arguments in C."""

    def __init__(self, name: str) -> None:
        super().__init__(2, "no such thing", name)
        self.name = name


class Holding(Exception):
    """Holds what cannot be pickled, and what pickles and does not unpickle."""

    def __init__(self, text: str) -> None:
        super().__init__(text, threading.Lock())
        self.text = text
        self.lock = threading.Lock()
        self.odd = Odd()


class Odd:
    def __reduce__(self) -> Any:
        return int, ("odd",)


class Model(pydantic.BaseModel):
    number: int


def _response() -> httpx.Response:
    request = httpx.Request("GET", "http://127.0.0.1/search")
    return httpx.Response(429, request=request, headers={"retry-after": "7"}, text="slow down")


def _status_error() -> httpx.HTTPStatusError:
    response = _response()
    return httpx.HTTPStatusError("429", request=response.request, response=response)


def _raise_from() -> None:
    try:
        raise Refused(1, retry_after=2)
    except Refused as error:
        raise KeyError("outer") from error


@agentcgroup.isolate
def fail(make: Callable[[], BaseException]) -> None:
    raise make()


def _raised(make: Callable[[], BaseException]) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - each test asserts the type
        fail(make)
    return caught.value


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: Refused(3, retry_after=1.5), ("code", "retry_after")),
        (Slotted, ("code", "where", "is_final")),
        (lambda: Missing("thing"), ("errno", "strerror", "filename", "name")),
        (lambda: mcp.McpError(ErrorData(code=-32000, message="closed")), ("error",)),
        (lambda: json.JSONDecodeError("bad", "{", 1), ("doc", "pos", "lineno")),
        (lambda: ImportError("no", name="nope", path="/nope"), ("name", "path")),
        (lambda: UnicodeDecodeError("ascii", b"\xff", 0, 1, "no"), ("object", "reason")),
    ],
    ids=lambda value: "" if isinstance(value, tuple) else None,
)
def test_it_is_itself_with_its_attributes(
    session: Session, make: Callable[[], BaseException], names: tuple[str, ...]
) -> None:
    raised, inline = _raised(make), make()
    assert type(raised) is type(inline)
    assert (str(raised), repr(raised)) == (str(inline), repr(inline))
    assert raised.args == inline.args
    assert [getattr(raised, name) for name in names] == [getattr(inline, name) for name in names]
    assert "in fail" in str(raised.__cause__)


def test_the_errors_of_http_clients_keep_their_responses(session: Session) -> None:
    """Retries read the status and the header from them."""
    raised: Any = _raised(_status_error)
    assert type(raised) is httpx.HTTPStatusError
    assert raised.request.url == "http://127.0.0.1/search"
    assert (raised.response.status_code, raised.response.text) == (429, "slow down")
    limited: Any = _raised(lambda: openai.RateLimitError("slow", response=_response(), body={}))
    assert type(limited) is openai.RateLimitError
    assert (limited.status_code, limited.response.headers["retry-after"]) == (429, "7")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.11 has the first groups")
def test_the_members_of_a_group_are_themselves(session: Session) -> None:
    def make() -> BaseException:
        group: type[Any] = ExceptionGroup  # noqa: F821 - not in Python 3.10
        return group("two", [Refused(1, retry_after=2), group("inner", [_status_error()])])

    raised: Any = _raised(make)
    assert str(raised) == "two (2 sub-exceptions)"
    assert raised.exceptions[0].code == 1
    assert raised.exceptions[1].exceptions[0].response.status_code == 429


def test_a_validation_error_of_pydantic_is_itself(session: Session) -> None:
    """Its class is not made by a class statement."""

    def invalid() -> BaseException:
        try:
            Model(number="many")  # type: ignore[arg-type]
        except pydantic.ValidationError as error:
            return error
        raise AssertionError

    raised = _raised(invalid)
    assert isinstance(raised, pydantic.ValidationError)
    assert raised.errors()[0]["loc"] == ("number",)


def test_cause_context_and_notes_are_kept(session: Session) -> None:
    """The worker's traceback stands behind the last cause."""

    @agentcgroup.isolate
    def chained() -> None:
        try:
            _raise_from()
        except KeyError as error:
            error.__dict__.setdefault("__notes__", []).append("a note")
            raise

    with pytest.raises(KeyError, match="outer") as caught:
        chained()
    cause = caught.value.__cause__
    assert isinstance(cause, Refused)
    assert cause.retry_after == 2
    assert "in chained" in str(cause.__cause__)
    assert caught.value.__dict__["__notes__"] == ["a note"]

    @agentcgroup.isolate
    def handling() -> None:
        try:
            raise Refused(1, retry_after=2)
        except Refused:
            raise KeyError("while handling") from None

    with pytest.raises(KeyError) as caught:
        handling()
    assert isinstance(caught.value.__context__, Refused)


def test_only_what_does_not_unpickle_is_left_out(session: Session) -> None:
    raised: Any = _raised(lambda: Holding("held"))
    assert type(raised) is Holding
    assert (raised.args[0], raised.text) == ("held", "held")
    for use in (lambda: raised.lock.acquire(), lambda: raised.odd.real):
        with pytest.raises(RuntimeError, match=r"of 'Holding' .* isolation = \"inline\""):
            use()


def test_a_class_that_the_call_has_made_is_its_nearest_known_base(session: Session) -> None:
    """Its code does not come into the app."""

    @agentcgroup.isolate
    def peculiar(base: type[Exception]) -> None:
        class Peculiar(base):  # type: ignore[misc, valid-type]
            def __str__(self) -> str:
                return f"peculiar in {os.getpid()}"

        raise Peculiar("yes")

    with pytest.raises(ConnectionError) as caught:
        peculiar(ConnectionError)
    assert (type(caught.value), caught.value.args) == (ConnectionError, ("yes",))
    with pytest.raises(RemoteError, match="Peculiar: peculiar in"):
        peculiar(Exception)


def test_a_class_of_a_function_in_the_app_is_the_apps(session: Session) -> None:
    class Local(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__("local")
            self.both = one, two

    @agentcgroup.isolate
    def local() -> None:
        raise Local(1, 2)

    with pytest.raises(Local, match="local") as caught:
        local()
    assert caught.value.both == (1, 2)


def test_an_exception_is_an_argument_and_a_result_as_any_other_object(session: Session) -> None:
    @agentcgroup.isolate
    def echo(errors: list[BaseException]) -> list[BaseException]:
        return errors

    (echoed,) = echo([Refused(5, retry_after=1)])
    assert isinstance(echoed, Refused)
    assert (echoed.code, str(echoed)) == (5, "refused with code 5")


def test_no_code_of_the_class_runs_in_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = failures.pack(Slotted())

    def ran(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("it ran")

    for kind in (Slotted, Refused):
        monkeypatch.setattr(kind, "__init__", ran)
        monkeypatch.setattr(kind, "__setattr__", ran, raising=False)
        monkeypatch.setattr(kind, "__reduce__", ran, raising=False)
    assert failures.unpack(packed).__dict__["code"] == 3


def test_an_exception_that_the_app_cannot_import_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = failures.pack(Refused(1, retry_after=2))
    monkeypatch.delattr(sys.modules[__name__], "Refused")
    error = failures.unpack(packed)
    assert isinstance(error, RemoteError)
    assert "Refused: refused with code 1 (an exception that the app cannot unpickle" in str(error)


def test_a_chain_of_any_length_is_packed() -> None:
    error: BaseException = ValueError(0)
    for number in range(1, 3000):
        outer = ValueError(number)
        outer.__cause__ = error
        error = outer
    raised = failures.unpack(failures.pack(error))
    assert (type(raised), raised.args) == (ValueError, (2999,))


def _raise(error: type[BaseException]) -> None:
    raise error(3)


async def _araise(error: type[BaseException]) -> None:
    raise error(3)


class _EndsTheApp:
    """Unpickles by raising."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        return _raise, (self.error,)


def _made(error: type[BaseException]) -> _EndsTheApp:
    return _EndsTheApp(error)


class _Unreadable:
    """Unpickles in the worker, and raises in the app."""

    def __reduce__(self) -> Any:
        return _raise_outside_of, (os.getpid(),)


def _raise_outside_of(worker: int) -> int:
    if os.getpid() != worker:
        raise SystemExit(3)
    return worker


def _fail() -> None:
    raise ValueError(_Unreadable())


_ENDING = (SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, BaseException)


@pytest.mark.parametrize("error", _ENDING)
def test_what_a_body_raises_neither_ends_nor_cancels_the_app(
    session: Session, error: type[BaseException]
) -> None:
    run, arun = agentcgroup.isolate("raise")(_raise), agentcgroup.isolate("araise")(_araise)
    with pytest.raises(RemoteError, match=error.__name__):
        run(error)

    async def main() -> str:
        task = asyncio.current_task()
        with pytest.raises(RemoteError, match=error.__name__):
            await arun(error)
        await asyncio.sleep(0)
        return str(task is not None and task.cancelled())

    if error is not KeyboardInterrupt:  # asyncio.run in the worker makes another of it
        assert asyncio.run(main()) == "False"
    assert session.records[-1].outcome == "error"


@pytest.mark.parametrize("error", [SystemExit, GeneratorExit, asyncio.CancelledError, ValueError])
def test_nor_does_a_result_that_raises_when_it_is_read(
    session: Session, error: type[BaseException]
) -> None:
    with pytest.raises(agentcgroup.Unshippable, match=error.__name__):
        agentcgroup.isolate("make")(_made)(error)


def test_nor_does_an_exception_that_raises_when_it_is_read(session: Session) -> None:
    with pytest.raises(RemoteError, match="ValueError"):
        agentcgroup.isolate("fail")(_fail)()
