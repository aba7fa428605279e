"""What no option of any command takes: nothing at all, and numbers that are none.

``--run "$RUN"`` with an unset ``RUN`` arrives as an empty value. To read it as "not given" would choose for the user without
a word. An infinite or undefined number, and one beyond 64 bits, has no meaning for any option either.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

WIDEST = 2**63 - 1
"""The largest whole number that an option takes: what the engines hold."""

MAY_BE_EMPTY = {("rename", "name")}
"""Command and parameter for which an empty text says something: it takes the name of a run away."""

Consumed = tuple[Any, ParameterSource | None]


MAY_BE_EMPTY = {("rename", "name")}
"""Command and parameter whose empty value is a value: it takes a run's name away."""


def with_plain_values(command: click.Command) -> click.Command:
    """The command, and those of a group; a parameter that the command line gives refuses a value that is none."""
    for parameter in command.params:
        if (command.name, parameter.name) in MAY_BE_EMPTY:
            continue
        consume = functools.partial(_plain, parameter, parameter.consume_value)
        setattr(parameter, "consume_value", consume)  # noqa: B010  # a method of click
    if isinstance(command, click.Group):
        for part in command.commands.values():
            with_plain_values(part)
    return command


def _plain(
    parameter: click.Parameter,
    consume: Callable[[click.Context, Any], Consumed],
    context: click.Context,
    given: Any,
) -> Consumed:
    value, origin = consume(context, given)
    if origin is ParameterSource.COMMANDLINE:
        for one in _flat(value):
            if isinstance(one, str) and not one.strip() and (context.command.name, parameter.name) not in MAY_BE_EMPTY:
                instead = (
                    "give it a value, or leave it out" if isinstance(parameter, click.Option) else "give it a value"
                )
                raise click.BadParameter(f"is empty: {instead}.", context, parameter)
            if isinstance(parameter.type, click.types.FloatParamType | click.types.IntParamType):
                _number(one, context, parameter)
    return value, origin


def _flat(value: Any) -> list[Any]:
    return [one for part in value for one in _flat(part)] if isinstance(value, tuple | list) else [value]


def _number(one: Any, context: click.Context, parameter: click.Parameter) -> None:
    try:
        number = float(one)
    except (TypeError, ValueError, OverflowError):
        return  # click says why
    if not math.isfinite(number):
        raise click.BadParameter(f"{one} is not a number that can be counted with.", context, parameter)
    if isinstance(parameter.type, click.types.IntParamType) and abs(number) > WIDEST:
        raise click.BadParameter(f"{one} is larger than any number that can be stored.", context, parameter)
