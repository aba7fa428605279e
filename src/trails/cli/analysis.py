"""The command of an analysis of :data:`trails.analyses.ANALYSES`, made from the signature of its function.

A parameter becomes an option of its name; ``Annotated[int, "help"]`` carries the help, a default of False makes a flag, a
``Literal`` a choice. The docstring is the help of the command.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

import click

from trails.analyses import analysis_of
from trails.analyses.report import Report
from trails.cli.scores import (
    html_option,
    settings_for,
    tell,
    written_options,
)


def command_for(name: str) -> click.Command:
    """The command that runs an analysis on a run of the home and prints its report. Raises TypeError for a parameter of a type
    that is no option."""
    function = analysis_of(name)

    def run_analysis(**given: Any) -> Report:
        from trails.pipeline import Home

        home, as_json, limit = given.pop("home"), given.pop("as_json"), given.pop("limit")
        details, store, no_graph = given.pop("details"), given.pop("store"), given.pop("no_graph")
        with Home(**settings_for(home, store)) as opened:
            report = opened.analyse(name, run=given.pop("run"), write=not no_graph, **given).report()
        return tell(report, as_json=as_json, limit=limit, details=details, home=home)

    command = click.command(
        name, help=inspect.getdoc(function), context_settings={"help_option_names": ["-h", "--help"]}
    )(html_option(run_analysis))
    command.params += _options(function)
    return written_options(command)


def _options(function: Callable[..., Any]) -> list[click.Parameter]:
    """Options for every parameter but the first, which takes the traces."""
    hints = typing.get_type_hints(function, include_extras=True)
    return [_option(one, hints[one.name]) for one in list(inspect.signature(function).parameters.values())[1:]]


def _option(parameter: inspect.Parameter, hint: Any) -> click.Option:
    text = ""
    if typing.get_origin(hint) is typing.Annotated:
        hint, text, *_ = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    flag = f"--{parameter.name.replace('_', '-')}"
    if hint is bool:
        return click.Option([flag], is_flag=True, help=text)
    kind: Any = click.Choice(typing.get_args(hint)) if typing.get_origin(hint) is typing.Literal else hint
    if kind not in (int, float, str) and not isinstance(kind, click.Choice):
        raise TypeError(f"parameter {parameter.name!r} of type {hint} is no option of a command")
    required = parameter.default is parameter.empty
    return click.Option(
        [flag],
        type=kind,
        required=required,
        default=None if required else parameter.default,
        show_default=not required and parameter.default is not None,
        help=text,
    )
