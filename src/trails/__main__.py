"""Entry point of the ``trails`` command: errors that trails raises become one message and an exit code."""

from __future__ import annotations

import fcntl
import io
import os
import signal
import sys
import traceback
from pathlib import Path

from trails.errors import QueryError, StoreError, TrailsError
from trails.platform import static_tls
from trails.platform.files import lacking, memory_advice, refused, what_to_do
from trails.platform.memory import LEAST_MEMORY, memory_limit
from trails.platform.text import one_line, visible

COMPLETING = "_TRAILS_COMPLETE"
"""Set by a shell that completes a line."""


def start() -> None:
    """The ``trails`` program: :func:`main` in a process with room for every native library."""
    _end_at_once(True)
    if COMPLETING not in os.environ:  # which needs no native library, and should be quick
        static_tls.ensure()
    main()


def _end_at_once(wanted: bool) -> None:
    """Whether Ctrl-C ends the process at once, in silence: right before a command runs, when there is nothing to keep and an
    import would answer with its traceback. A process that was told to ignore Ctrl-C goes on ignoring it.
    """
    usual, at_once = signal.default_int_handler, signal.SIG_DFL
    if signal.getsignal(signal.SIGINT) is (usual if wanted else at_once):
        signal.signal(signal.SIGINT, at_once if wanted else usual)


def _terminated(signal_number: int, frame: object) -> None:
    """SIGTERM ends a command as Ctrl-C does: what it began to write goes. A second one ends the process at once."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise SystemExit(128 + signal_number)


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1–7 see :mod:`trails.errors`, 130 interrupted, 143 terminated."""
    os.environ.setdefault(
        "ARROW_DEFAULT_MEMORY_POOL", "system"
    )  # pyarrow's own keeps what was freed: 70 MB of an export
    try:
        sys.exit(_run())
    except KeyboardInterrupt:  # before a command began
        sys.exit(130)
    except (ImportError, MemoryError) as error:  # as early
        if not lacking(error):
            raise
        _say(refused(error))
        sys.exit(StoreError.exit_code)
    except BrokenPipeError:
        # the reader of our output (head, less) has gone: silence the flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _run() -> int:
    if not _takes_warnings():  # closed by who started us: the warnings go nowhere, as was asked
        _no_warnings()
    if said := _too_little_memory():
        _say(said)
        return StoreError.exit_code
    import click

    from trails.cli import cli

    if COMPLETING in os.environ:
        from trails.cli.completion import complete

        return complete(cli, os.environ[COMPLETING])
    from trails.cli.common import echo, forget_home, log_to_stderr, with_home

    if sys.stdout is None:
        said = "standard output is closed, so nothing can be printed. Send it to a file, or to /dev/null"
        echo(f"Error: {said}", to_stderr=True)
        return 2
    log_to_stderr()
    forget_home()

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a character gets its number
    _end_at_once(False)
    before = signal.getsignal(signal.SIGTERM)
    if before is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminated)
    try:
        status = cli.main(prog_name="trails", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Abort as abort:
        # who was interrupted may say what is kept
        said = str(abort.__cause__ or "")
        echo(
            said or "interrupted; what was stored before is kept. Run the same command again to finish it",
            to_stderr=True,
        )
        return 130
    except click.ClickException as error:
        setattr(error, "message", one_line(error.message))  # noqa: B010  # final to mypy, and click has no other way
        shown = io.StringIO()
        error.show(file=shown)
        echo(shown.getvalue(), nl=False, to_stderr=True, as_it_is=True)
        return 2
    except TrailsError as error:
        # an engine shows the place in a statement over several lines; in every other message a name starts no line of its own
        said = visible(str(error)) if isinstance(error, QueryError) else "\n".join(map(one_line, error.lines))
        echo(f"Error: {with_home(said)}", to_stderr=True)
        return error.exit_code
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno is None and lacking(error):  # the words of a library, not of the system
            echo(f"Error: {one_line(refused(error))}", to_stderr=True)
            return StoreError.exit_code
        if not (advice := what_to_do(error)):
            echo(traceback.format_exc(), nl=False, to_stderr=True, as_it_is=True)
            return 1
        name = error.filename or ("standard output" if _was_printing(error) else "")
        where = f"{name}: " if name else ""
        echo(f"Error: {one_line(f'{where}{error.strerror}')}. {advice}", to_stderr=True)
        return StoreError.exit_code
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of a native library is no Exception
        if lacking(error):
            echo(f"Error: {one_line(refused(error))}", to_stderr=True)
            return StoreError.exit_code
        # a bug in trails: the traceback names it, and may quote text of strangers
        echo(traceback.format_exc(), nl=False, to_stderr=True, as_it_is=True)
        return 1
    finally:
        if before is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, before)
    # click hands over the code of an early exit as the result
    return status if isinstance(status, int) else 0


def _say(text: str) -> None:
    """An error where nothing that prints can be imported."""
    sys.stderr.write(f"Error: {one_line(text)}\n")  # noqa: TID251  # a console takes memory


def _takes_warnings() -> bool:
    """Whether something can be written to standard error. A shell script that was started without one leaves itself there, open
    for reading.
    """
    try:
        return sys.stderr is not None and fcntl.fcntl(sys.stderr.fileno(), fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
    except io.UnsupportedOperation:
        return True
    except OSError:
        return False


def _no_warnings() -> None:
    """Send what goes to standard error nowhere, that of native libraries, too: the next file that is opened would get it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    if nowhere != 2:
        os.close(nowhere)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)


def _too_little_memory() -> str:
    """What to say where the process may not have the memory to begin: native libraries end it there without a message."""
    limit = memory_limit()
    if limit is None or limit >= LEAST_MEMORY or {"--help", "-h", "--version"} & set(sys.argv):
        return ""
    return f"the limit of memory is too small. {memory_advice()}"


def _was_printing(error: OSError) -> bool:
    """Whether the error came up where something was printed; then what is left to print is dropped, so that nothing complains
    at the end.
    """
    place = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    if not (place == Path(__file__) or {"click", "rich"} & set(place.parts)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


if __name__ == "__main__":
    start()
