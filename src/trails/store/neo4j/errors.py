"""What can go wrong between here and a server, as errors that say what to do."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from neo4j import exceptions as bolt

from trails.errors import QueryError, StoreError, TrailsError

T = TypeVar("T")


class GoneError(StoreError):
    """The server does not answer."""


class NoPasswordError(StoreError):
    """The server asks for a password, and there is none."""


_PLACE = re.compile(r"\(line (\d+), column (\d+) \(offset: (\d+)\)\)")


@contextmanager
def placed_behind(prefix: str) -> Iterator[None]:
    """Around a statement that is sent behind ``prefix``, a word of one line: the place that the server names in it becomes that
    in the statement itself. Raises QueryError where it names one; other errors pass.
    """
    try:
        yield
    except bolt.Neo4jError as error:
        text, code = first_line(error), error.code or ""
        if not _PLACE.search(text) or "AccessMode" in code or not code.startswith("Neo.ClientError.Statement"):
            raise

        def moved(place: re.Match[str]) -> str:
            line, column, offset = map(int, place.groups())
            column -= len(prefix) if line == 1 else 0
            return f"(line {line}, column {column} (offset: {offset - len(prefix)}))"

        raise QueryError(_PLACE.sub(moved, text)) from None


NOTHING_CHANGED = "The query only read: nothing was changed, and it can be asked again"
LOAD_THE_REST = "What was committed is safe; load the rest with: trails rebuild --store neo4j"


def first_line(error: BaseException) -> str:
    message = getattr(error, "message", None) or str(error)
    return str(message).strip().split("\n")[0][:400]


def translated(
    error: BaseException,
    address: str,
    *,
    username: str,
    password: bool,
    database: str,
    timeout_s: float = 0.0,
    reading: bool = False,
) -> TrailsError:
    """What the driver or the server said, as an error that says what to do. ``password`` says whether one was sent. Never
    contains it: neither the driver's nor the server's messages do, and parameters are not part of them.
    """
    code = getattr(error, "code", "") or ""
    text = first_line(error)
    chain: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(chain) < 6:
        chain.append(f"{type(cause).__name__}: {cause}")
        cause = cause.__cause__ or cause.__context__
    whole = " ".join(chain).lower()
    if "certificate" in whole and ("verify" in whole or "ssl" in whole):
        return StoreError(
            f"the certificate of Neo4j at {address} is not trusted by this machine. Give the server a "
            f"certificate that is, or write bolt+ssc:// (neo4j+ssc://) in NEO4J_URI to accept one that is not verified"
        )
    if "Security.CredentialsExpired" in code:
        return StoreError(
            f"the password of user {username!r} of Neo4j at {address} must be changed before it can be used. Change it in "
            "Neo4j Browser or with ALTER CURRENT USER SET PASSWORD FROM … TO …; then set NEO4J_PASSWORD to the new one"
        )
    if "AuthenticationRateLimit" in code:
        return StoreError(
            f"Neo4j at {address} does not let user {username!r} in for some seconds, after several wrong passwords. Set "
            "NEO4J_USERNAME and NEO4J_PASSWORD, wait, and try again"
        )
    if not password and (isinstance(error, bolt.AuthError) or "Security.Unauthorized" in code):
        return NoPasswordError(
            f"Neo4j at {address} asks for a password, and none is set. Run: export NEO4J_PASSWORD=…  (of user {username!r}; "
            "another user: NEO4J_USERNAME)"
        )
    if isinstance(error, bolt.AuthError) or "Security.Unauthorized" in code:
        return StoreError(
            f"Neo4j at {address} does not accept user {username!r} with this password. Set NEO4J_USERNAME and NEO4J_PASSWORD"
        )
    if "DatabaseUnavailable" in code:
        return StoreError(
            f"database {database!r} of Neo4j at {address} is not available: it is starting, stopped, or could not start "
            "(a full disk is one cause). Look into the server's log, then try again"
        )
    if "DatabaseNotFound" in code:
        return StoreError(
            f"Neo4j at {address} has no database {database!r} that can be used. Set NEO4J_DATABASE (Community Edition has one: "
            f"neo4j). The server said: {text}"
        )
    critical = "TransactionStartFailed" in code and "critical error" in whole
    if "TransactionLogError" in code or critical or "no space left" in whole or ("disk" in whole and "full" in whole):
        # the server tells a client only that it could not append to its log, or that it stopped after such an error
        return StoreError(
            f"Neo4j at {address} cannot write; the usual cause is a full disk. Free space there, restart the server, then: "
            "trails rebuild --store neo4j"
        )
    if (
        "WriteOnReadOnlyAccessDatabase" in code
        or "read-only" in whole
        or ("read only" in whole and "Statement" not in code)
    ):
        return StoreError(
            f"database {database!r} of Neo4j at {address} is read-only: nothing can be loaded into it. Use another server or "
            "make it writable (server.databases.default_to_read_only=false)"
        )
    if "TransactionTimedOut" in code or "LockClientStopped" in code or "Transaction.Terminated" in code:
        return QueryError(
            f"the statement did not end within {timeout_s:g} s and was stopped; narrow it or raise --timeout"
        )
    if "OutOfMemory" in code or "MemoryPool" in code:
        return QueryError(
            f"the statement needs more memory than Neo4j at {address} has; return less, add LIMIT, or give the server more"
        )
    if "AccessMode" in code or "Statement.AccessMode" in code or "in read access mode" in whole:
        return QueryError(f"the statement writes, and this is the read path: {text}")
    if "Security.Forbidden" in code:
        return StoreError(f"user {username!r} of Neo4j at {address} may not do that: {text}")
    if "ConstraintValidationFailed" in code:
        return StoreError(f"Neo4j at {address} refused a row: {text}")
    if isinstance(error, bolt.Neo4jError) and code.startswith(
        ("Neo.ClientError.Statement", "Neo.ClientError.Procedure")
    ):
        return QueryError(text)
    if isinstance(error, bolt.ConfigurationError | bolt.UnsupportedServerProduct):
        return StoreError(f"NEO4J_URI {address}: {text}")
    if "routing information" in text and address.startswith("neo4j+s:"):
        # while it looks for routes the driver keeps to itself why each server was refused
        return GoneError(
            f"no answer from Neo4j at {address}, or its certificate is not trusted by this machine: the same address with "
            "bolt+s:// says which. neo4j+ssc:// accepts a certificate that is not verified"
        )
    if isinstance(error, bolt.ServiceUnavailable | bolt.SessionExpired | bolt.DriverError | OSError | TimeoutError):
        return GoneError(
            f"no answer from Neo4j at {address} ({text.split(' (')[0]}). Is it running? Start it: "
            f"docker compose up -d --wait, or scripts/neo4j start. {NOTHING_CHANGED if reading else LOAD_THE_REST}. "
            "For the graph in the home folder use --store embedded"
        )
    if isinstance(error, bolt.Neo4jError):
        return StoreError(f"Neo4j at {address}: {code or type(error).__name__}: {text}")
    raise error


def unsendable(error: Exception) -> QueryError:
    """A parameter that the driver cannot send."""
    if isinstance(error, UnicodeEncodeError):
        return QueryError("a lone surrogate is not a character: Neo4j stores Unicode text only")
    return QueryError(f"a parameter cannot be sent to Neo4j: {first_line(error)}")


def within(seconds: float, work: Callable[[], T], late: Callable[[], TrailsError]) -> T:
    """The result of ``work``, or an error when it takes longer.

    The server ends a statement at its own time limit; this is for connections that carry nothing, or a byte now and then, where
    no limit of the server helps.
    """
    outcome: list[Any] = []

    def body() -> None:
        try:
            outcome.append((True, work()))
        except BaseException as error:
            outcome.append((False, error))

    thread = threading.Thread(target=body, daemon=True, name="trails-neo4j")
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise late()
    good, value = outcome[0]
    if not good:
        raise value
    result: T = value
    return result
