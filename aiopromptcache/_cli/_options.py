"""What all commands have in common: the options that say which cache is meant."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from ._errors import ToolError

DEFAULT_URL = "redis://localhost:6379/0"

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


@dataclass
class Settings:
    """Which cache is meant, and how to answer. What is None is as the environment says."""

    url: str | None = None
    namespace: str | None = None
    prefix: str | None = None
    encryption_key_file: str | None = None
    timeout: float | None = None
    json: bool = False

    @property
    def where(self) -> str:
        """The server's URL."""
        environ = os.environ
        given = self.url or environ.get("AIOPROMPTCACHE_URL") or environ.get("REDIS_URL")
        return given or DEFAULT_URL

    @property
    def room(self) -> str:
        """The namespace."""
        return self.namespace or os.environ.get("AIOPROMPTCACHE_NAMESPACE") or "default"

    @property
    def beginning(self) -> str:
        """The prefix of all names."""
        return self.prefix or os.environ.get("AIOPROMPTCACHE_PREFIX") or "aiopromptcache"

    @property
    def patience(self) -> float:
        """Seconds that one step on the server may take."""
        return 10.0 if self.timeout is None else self.timeout

    @property
    def keys(self) -> list[str | bytes] | None:
        """The encryption keys, the newest first; None where there are none."""
        if self.encryption_key_file is not None:
            return _keys_in(self.encryption_key_file)
        text = os.environ.get("AIOPROMPTCACHE_ENCRYPTION_KEY", "")
        keys: list[str | bytes] = [key.strip() for key in text.split(",") if key.strip()]
        return keys or None


def _keys_in(path: str) -> list[str | bytes]:
    """32 bytes as they are, or keys in URL-safe base64, one a line."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ToolError(f"--encryption-key-file {path}: {error.strerror}") from None
    if len(content) == 32:
        return [content]
    keys: list[str | bytes] = [*content.decode("ascii", "replace").split()]
    if not keys:
        raise ToolError(f"--encryption-key-file {path}: there is no key in it")
    return keys


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Given before the command, after it, or both: what is nearer counts."""
    settings = context.ensure_object(Settings)
    if value == "":  # as from an unset variable: the default would be another cache
        raise click.BadParameter("it is empty; without the option the default counts")
    if value and parameter.name:
        setattr(settings, parameter.name, value)


def _option(*names: str, **more: Any) -> Callable[[CommandT], CommandT]:
    return click.option(*names, expose_value=False, callback=_keep, default=None, **more)


_COMMON = (
    _option(
        "--url",
        metavar="URL",
        help="redis://, rediss:// or unix:// URL of the server or of one node of a cluster. "
        "Default: $AIOPROMPTCACHE_URL, else $REDIS_URL, else localhost. A password belongs into "
        "the environment: arguments are seen by everybody on the machine.",
    ),
    _option(
        "--namespace",
        metavar="NAME",
        help="As in PromptCache(namespace=…). Default: $AIOPROMPTCACHE_NAMESPACE, else default.",
    ),
    _option(
        "--prefix",
        metavar="NAME",
        help="As in RedisTier(prefix=…). Default: $AIOPROMPTCACHE_PREFIX, else aiopromptcache.",
    ),
    _option(
        "--encryption-key-file",
        metavar="FILE",
        type=click.Path(),
        help="File with the key that RedisTier(encryption_key=…) has, several one a line, newest "
        "first. Default: $AIOPROMPTCACHE_ENCRYPTION_KEY, several with commas. Never an argument: "
        "those are seen by everybody on the machine.",
    ),
    _option(
        "--timeout",
        metavar="SECONDS",
        type=click.FloatRange(min=0.001),
        help="How long one step on the server may take. Default: 10.",
    ),
    _option(
        "--json",
        is_flag=True,
        help="Answer in JSON on stdout, an error too; everything else goes to stderr.",
    ),
)
COMMON_NAMES = ("url", "namespace", "prefix", "encryption_key_file", "timeout", "json")


def common(command: CommandT) -> CommandT:
    """Add the common options to a command."""
    for option in reversed(_COMMON):
        command = option(command)
    return command


class Command(click.Command):
    """A command whose help shows its own options first, and examples."""

    def __init__(self, *args: Any, examples: str = "", **more: Any) -> None:
        super().__init__(*args, **more)
        self.examples = examples

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See click."""
        own: list[tuple[str, str]] = []
        shared: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            if isinstance(parameter, click.Argument):  # the usage line has it
                continue
            if (record := parameter.get_help_record(ctx)) is not None:
                (shared if parameter.name in COMMON_NAMES else own).append(record)
        for title, records in (("Options", own), ("Which cache, and how to answer", shared)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See click."""
        write_examples(formatter, self.examples)


def write_examples(formatter: click.HelpFormatter, examples: str) -> None:
    """Lines as they are."""
    if examples:
        with formatter.section("Examples"):
            indent = " " * formatter.current_indent
            formatter.write(
                "".join(f"{indent}{line}".rstrip() + "\n" for line in examples.strip().splitlines())
            )
