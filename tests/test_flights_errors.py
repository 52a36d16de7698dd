"""Errors of a flight: all who wait get one, each an instance of its own."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import Callable
from typing import Any

import httpx2
import openai
import pytest
from engine_tools import Gate, cancel, finish, gives, quiet
from pydantic import BaseModel, ValidationError

from aiopromptcache import PromptCache
from aiopromptcache._flights import twin

pytestmark = pytest.mark.anyio


class Model(BaseModel):
    x: int


class Slotted(Exception):
    """Keeps what it knows outside `__dict__`."""

    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class Rebuilt(Exception):
    """Says itself how it is copied, as libraries do that want to be picklable."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code

    def __reduce__(self) -> Any:
        return _rebuild, (self.code,)


def _rebuild(code: int) -> Rebuilt:
    return Rebuilt(code=code)


def _status_error() -> openai.APIStatusError:
    request = httpx2.Request("POST", "http://local/v1/chat/completions")
    response = httpx2.Response(429, request=request, headers={"retry-after": "1"})
    return openai.RateLimitError("slow down", response=response, body={"code": "rate"})


def _validation_error() -> Exception:
    with pytest.raises(ValidationError) as caught:
        Model.model_validate({"x": "no"})
    return caught.value


def _json_error() -> Exception:
    with pytest.raises(json.JSONDecodeError) as caught:
        json.loads("{")
    return caught.value


ERRORS: dict[str, tuple[Callable[[], Exception], Callable[[Any], Any]]] = {
    "openai": (_status_error, lambda error: (error.status_code, error.body, error.code)),
    "timeout": (
        lambda: openai.APITimeoutError(request=httpx2.Request("GET", "http://local")),
        lambda error: str(error.request.url),
    ),
    "pydantic": (_validation_error, lambda error: error.errors()),
    "json": (_json_error, lambda error: (error.msg, error.doc, error.pos, error.lineno)),
    "slots": (lambda: Slotted(7), lambda error: error.code),
    "reduce": (lambda: Rebuilt(code=7), lambda error: error.code),
    "os": (
        lambda: OSError(2, "gone", "a", None, "b"),
        lambda error: (error.errno, error.filename2),
    ),
    "missing file": (lambda: FileNotFoundError(2, "gone", "a"), lambda error: error.filename),
    "encode": (lambda: UnicodeEncodeError("ascii", "\xff", 0, 1, "no"), lambda error: error.object),
    "group": (
        lambda: ExceptionGroup("some", [ValueError(1), OSError(2, "gone")]),
        lambda error: (error.message, repr(error.exceptions)),
    ),
    "attribute": (lambda: AttributeError("no", name="n", obj=1), lambda error: error.args),
    "no arguments": (ValueError, lambda error: error.args),
}


@pytest.mark.parametrize("name", ERRORS)
async def test_each_caller_gets_an_equal_error_of_its_own(cache: PromptCache, name: str) -> None:
    make, facts = ERRORS[name]
    original = make()
    errors = await _fail_for(cache, original, callers=3)
    assert len({id(error) for error in errors}) == 3
    for error in errors:
        assert type(error) is type(original)
        assert str(error) == str(original)
        assert facts(error) == facts(original)


async def _fail_for(cache: PromptCache, error: BaseException, callers: int) -> list[Any]:
    gate = Gate()

    async def fail() -> None:
        await gate.wait()
        raise error

    tasks = [asyncio.create_task(cache.get_or_create("key", fail)) for _ in range(callers)]
    await gate.reached()
    await quiet()
    gate.open()
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_callers_share_no_notes(cache: PromptCache) -> None:
    original = ValueError("broken")
    original.add_note("from the factory")
    errors = await _fail_for(cache, original, callers=3)
    for number, error in enumerate(errors):
        error.add_note(str(number))
    notes = [error.__notes__ for error in errors]
    assert notes == [["from the factory", str(number)] for number in range(3)]


async def test_callers_share_no_context(cache: PromptCache) -> None:
    gate = Gate()

    async def fail() -> None:
        await gate.wait()
        raise ValueError("broken")

    async def caller(number: int) -> BaseException:
        try:
            raise KeyError(number)
        except KeyError:
            with pytest.raises(ValueError, match="broken") as caught:
                await cache.get_or_create("key", fail)
        return caught.value

    tasks = [asyncio.create_task(caller(number)) for number in range(3)]
    await gate.reached()
    await quiet()
    gate.open()
    errors = await asyncio.gather(*tasks)
    followers = errors[1:]
    assert [repr(error.__context__) for error in followers] == ["KeyError(1)", "KeyError(2)"]


async def test_callers_see_where_it_broke_and_nobody_elses_frames(cache: PromptCache) -> None:
    errors = await _fail_for(cache, ValueError("broken"), callers=3)
    for error in errors:
        names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert names[-1] == "fail"
        assert names.count("get_or_create") == 1


async def test_every_caller_learns_the_cause(cache: PromptCache) -> None:
    original = ValueError("broken")
    original.__cause__ = OSError("the cause")
    for error in await _fail_for(cache, original, callers=3):
        assert error.__cause__ is original.__cause__
        assert error.__suppress_context__


def test_a_twin_knows_what_its_original_was_raised_for() -> None:
    original = ValueError("broken")
    original.__context__ = KeyError("first")
    assert twin(original).__context__ is original.__context__


async def test_an_error_is_not_stored_and_the_next_call_tries_again(cache: PromptCache) -> None:
    await _fail_for(cache, ValueError("broken"), callers=2)
    assert await cache.get_or_create("key", gives("fine")) == "fine"
    assert cache.stats.upstream_calls == 2


async def test_an_old_flights_failure_leaves_the_new_flight_alone(cache: PromptCache) -> None:
    old, new = Gate(), Gate()

    async def fails() -> str:
        await old.wait()
        raise ValueError("old")

    async def works() -> str:
        await new.wait()
        return "new"

    first = asyncio.create_task(cache.get_or_create("key", fails))
    await old.reached()
    await cache.delete("key")
    second = asyncio.create_task(cache.get_or_create("key", works))
    await new.reached()
    old.open()
    with pytest.raises(ValueError, match="old"):
        await first
    third = asyncio.create_task(cache.get_or_create("key", fails))
    await quiet()
    new.open()
    assert await asyncio.gather(second, third) == ["new", "new"]


class Outcome(BaseException):
    """Like pytest's own skip and fail: no Exception, and yet no cancellation."""


async def test_what_is_no_exception_reaches_its_caller_as_itself(
    cache: PromptCache, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise Outcome("from the factory")

    with pytest.raises(Outcome, match="from the factory"):
        await cache.get_or_create("key", fail)
    await quiet()
    assert caplog.text == ""


async def test_a_caller_that_has_left_leaves_no_error_unseen(
    cache: PromptCache, caplog: pytest.LogCaptureFixture
) -> None:
    gate, leaving = Gate(), Gate()

    async def fail() -> None:
        try:
            await gate.wait()
        finally:
            await leaving.wait()
            raise ValueError("nobody hears this")

    task = asyncio.create_task(cache.get_or_create("key", fail))
    await gate.reached()
    await cancel(task)
    leaving.open()
    await quiet()
    assert caplog.text == ""
    assert len(cache._engine.flights) == 0


async def test_a_factory_that_cannot_be_awaited_is_its_callers_error(cache: PromptCache) -> None:
    with pytest.raises(TypeError):
        await cache.get_or_create("key", lambda: 1)  # type: ignore[arg-type, return-value]
    assert await finish(asyncio.ensure_future(cache.get_or_create("key", gives(1)))) == 1


async def test_errors_count_as_lookups(cache: PromptCache) -> None:
    await _fail_for(cache, ValueError("broken"), callers=3)
    stats = cache.stats
    assert (stats.requests, stats.misses, stats.collapsed, stats.errors) == (3, 1, 2, 1)
