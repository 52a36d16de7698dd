"""The command `aiopromptcache`: its group, its version, and how each run ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from .._errors import PromptCacheError
from ._doctor import doctor
from ._errors import FAILED, INTERRUPTED, UNUSABLE, ToolError
from ._look import ls, show
from ._options import common, write_examples
from ._output import clean, emit
from ._remove import clear, invalidate, rm
from ._stats import stats
from ._transfer import export, import_
from ._warm import warm

EXAMPLES = """
export REDIS_URL=redis://localhost:6379/0
aiopromptcache doctor                     is the server fit, and what to change
aiopromptcache stats --watch              what the cache holds, again and again
aiopromptcache ls --model gpt-4o-mini     its entries
aiopromptcache invalidate docs            drop what was stored with the tag, everywhere
aiopromptcache warm questions.jsonl       answer many requests ahead of time
aiopromptcache COMMAND --help             all about one command

Exit codes: 0 all done; 1 some of it not (an unknown key, a request that failed, a warning);
2 nothing, because of wrong arguments or a server that cannot be used; 130 Ctrl-C.
"""


class Tool(click.Group):
    """The group. However a run ends, it ends with one line and an exit code."""

    def main(self, args: Sequence[str] | None = None, *_: Any, **more: Any) -> Any:
        """See click; always ends with `SystemExit`."""
        sys.exit(self._ended(args))

    def _ended(self, args: Sequence[str] | None) -> int:
        try:
            code = super().main(args, prog_name="aiopromptcache", standalone_mode=False)
            sys.stdout.flush()
        except click.ClickException as error:
            error.show()
            _tell(args, error.format_message())
            return error.exit_code
        except (ToolError, PromptCacheError) as error:
            click.echo(f"aiopromptcache: {clean(str(error))}", err=True)
            _tell(args, str(error))
            return error.code if isinstance(error, ToolError) else UNUSABLE
        except (click.Abort, KeyboardInterrupt):
            click.echo("aiopromptcache: interrupted", err=True)
            return INTERRUPTED
        except BrokenPipeError:
            return _quiet()
        except OSError as error:  # a full disk, a file that went
            click.echo(f"aiopromptcache: {clean(error.strerror or str(error))}", err=True)
            return UNUSABLE
        return code if isinstance(code, int) else 0

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See click."""
        write_examples(formatter, EXAMPLES)


def _tell(args: Sequence[str] | None, error: str) -> None:
    """Whoever asked for JSON is given a line of it here too, also for arguments that are wrong."""
    given = list(sys.argv[1:] if args is None else args)
    options = given[: given.index("--")] if "--" in given else given
    if "--json" in options:
        with suppress(OSError):
            emit({"error": error})


def _quiet() -> int:
    """Whoever read has left, as `head` does: Python is not to complain of it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED


def _version() -> str:
    try:
        return version("aiopromptcache")
    except PackageNotFoundError:  # a source tree that was never installed
        return "unknown"


def _show_version(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        click.echo(f"aiopromptcache {_version()}")
        context.exit()


@click.group(
    cls=Tool,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
@common
def cli() -> None:
    """See and run the caches that aiopromptcache keeps in Redis or Valkey.

    Options that say which cache is meant may stand before or after the command.
    """


for _command in (stats, ls, show, invalidate, rm, clear, warm, export, import_, doctor):
    cli.add_command(_command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command; gives the exit code."""
    return cli._ended(arguments)
