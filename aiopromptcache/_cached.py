"""The `cached` decorator: from a call of a function to a key and a type."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ._errors import ConfigurationError
from ._keys import Unkeyable, canonical, digest, prefix
from ._policy import tag_tuple
from ._values import readable_as

if TYPE_CHECKING:
    from ._cache import PromptCache, Ttl


def decorate(
    cache: PromptCache,
    ttl: Ttl,
    tags: Iterable[str] | Callable[..., Iterable[str]],
    key: Callable[..., str] | None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The decorator behind `PromptCache.cached`."""
    if not callable(tags):
        tags = tag_tuple(tags)
    if key is not None and not callable(key):
        raise ConfigurationError(
            f"key={key!r}: expected a callable that makes a str of the arguments"
        )

    def decorator(function: Callable[..., Any]) -> Callable[..., Any]:
        if not inspect.iscoroutinefunction(function):
            raise ConfigurationError(f"cached: {function!r} is not an async function")
        name_key = key or _key_maker(function)

        @functools.wraps(function)
        async def call(*args: Any, **kwargs: Any) -> Any:
            return await cache.get_or_create(
                name_key(*args, **kwargs),
                lambda: function(*args, **kwargs),
                type=_return_type(function),
                ttl=ttl,
                tags=tags(*args, **kwargs) if callable(tags) else tags,
            )

        return call

    return decorator


def _key_maker(function: Callable[..., Any]) -> Callable[..., str]:
    given = function if isinstance(function, functools.partial) else functools.partial(function)
    function = given.func
    signature = inspect.signature(function)
    name = prefix("function", function.__module__, function.__qualname__)

    def make(*args: Any, **kwargs: Any) -> str:
        bound = signature.bind(*given.args, *args, **{**given.keywords, **kwargs})
        bound.apply_defaults()
        try:
            return digest(name, canonical(bound.arguments))
        except Unkeyable:
            raise _unkeyable_argument(function, bound.arguments) from None

    return make


def _unkeyable_argument(function: Callable[..., Any], arguments: dict[str, Any]) -> TypeError:
    for name, value in arguments.items():
        try:
            canonical(value)
        except Unkeyable as error:
            return TypeError(
                f"{function.__qualname__}: argument {name!r} of type {type(value).__qualname__} "
                f"cannot be part of a key ({error}); give cached(key=...) a callable"
            )
    return TypeError(f"{function.__qualname__}: the arguments cannot be made into a key")


@functools.cache
def _return_type(function: Callable[..., Any]) -> Any:
    """The type that a stored result must fit; None where the annotation says nothing usable."""
    if isinstance(function, functools.partial):
        function = function.func
    try:
        annotation = typing.get_type_hints(function).get("return")
    except Exception:
        return None
    if annotation is Any or annotation is object or isinstance(annotation, typing.TypeVar):
        return None
    return annotation if readable_as(annotation) else None
