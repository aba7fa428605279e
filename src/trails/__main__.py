"""Entry point of the ``trails`` command: errors that trails raises become one message and an exit code."""

from __future__ import annotations

import os
import sys

import click

from trails.errors import TrailsError
from trails.platform import static_tls


def start() -> None:
    """The ``trails`` program: :func:`main` in a process with room for every native library."""
    static_tls.ensure()
    main()


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1–7 see :mod:`trails.errors`, 130 interrupted."""
    from trails.cli import cli

    try:
        status = cli.main(prog_name="trails", standalone_mode=False)
        # click hands over the code of an early exit as the result
        sys.exit(status if isinstance(status, int) else 0)
    except click.exceptions.Abort:
        click.echo("interrupted; what was stored is kept, and the same command does not do it again", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except TrailsError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # the reader of our output (head, less) has gone: silence the flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


if __name__ == "__main__":
    start()
