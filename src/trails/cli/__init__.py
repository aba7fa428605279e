"""The command line: one file per command, no logic. A command's file is imported only when the command is used."""

from __future__ import annotations

import importlib
from typing import Any

import click

from trails.analyses import ANALYSES

ANALYSE = "Analyse, every score with its control"

CHANGE = "Change, and see what depends on it"

STAGES: dict[str, dict[str, str]] = {
    # stage: its commands with one-line help; a command is `command` in trails.cli.<name with _>, or made from
    # a line of ANALYSES
    "Read and measure": {
        "ingest": "Read chains, measure them, store them, load the graph.",
        "chains": "The chains of the home: id, source and record, first words, steps, nats.",
        "status": "What the home and the graph hold.",
        "roles": "Correct the roles of steps, and score the segmenter on them.",
        "show": "One chain in the terminal: steps, roles, every token by surprisal.",
        "report": "One offline HTML file: tokens, steps, corpus, map.",
    },
    "Ask": {
        "query": "Run a named query of the cypher/ library.",
        "cypher": "Run a Cypher statement (read-only unless --write).",
        "mcp": "Let an assistant ask the graph: tools that read, over standard input.",
        "export-graph": "Write a part of the graph for Gephi, yEd, networkx or neo4j-admin.",
    },
    ANALYSE: {
        "overlaps": "Maximal repeats shared by chains, with their control.",
        "map": "The map of shared token contexts, with its fitness.",
        "gaps": "Seams where a step seems to be missing, compared with baselines.",
        "bridge": "The cheapest path between two steps, re-scored by the model.",
        "capture": "Does a new text follow a known trail? Compared with its nulls.",
        "basin": "How far a text can be disturbed and still follow its own trail.",
        "patterns": "Are versions of a family one pattern in state space?",
        "drift": "Hidden-state drift of a chain by layer and position.",
        "gradient": "What every token contributes to a target, compared with replacing it.",
    },
    CHANGE: {
        "anchors": "Which earlier steps a step needs, found by suppressing attention.",
        "respond": "What spans do to unseen probes: the response map.",
        "consilium": "Measure with every model listed in a file, then compare them.",
        "agreement": "Do several models find the same spans hard?",
        "effects": "Named effects: their definitions, and the steps that show them.",
        "pvq": "Step states as vectors in a file: write them, search them.",
        "intervene": "Measure with a change inside the model, compared with random ones.",
    },
    "Build and train": {
        "stellator": "Blocks that select, set the training, and make claims to measure.",
        "stellate": "A thought in five steps, from its chain to the texts that walk its path.",
        "variants": "Microvariants of a chain, measured and gated.",
        "select": "Choose chains within a budget of tokens, compared with chance.",
        "export": "Write a subgraph as LoRA training data.",
        "genome": "A course written as YAML: check, show, plan, export, mutate, cross, search.",
        "train": "Train a LoRA adapter on an export (thin layer on PEFT and TRL).",
    },
    "What a training did": {
        "diff": "Measure again and compare two runs, with the noise floor.",
        "recall": "Completion recall on unseen chains, with its controls.",
        "routes": "Send rows to the adapter of their role, compared with random routes.",
        "repairs": "Two attempts at a question: what the second repairs, and what it spoils.",
        "experiment": "Run a pre-registered experiment with its controls.",
    },
    "Look after the stores": {
        "verify": "Compare shards and graph, and name what differs.",
        "rebuild": "Load the graph from the shards, without measuring.",
        "merge": "Join homes that were measured separately.",
        "remove": "Remove chains, sources, families or runs from the home.",
        "rename": "Give a run a name.",
        "bulk": "Write files for neo4j-admin database import.",
        "browser": "Address of Neo4j Browser and how to import the favourites.",
        "doctor": "Versions, model, device, stores, what is missing and what to run.",
    },
}

COMMANDS: dict[str, str] = {name: text for commands in STAGES.values() for name, text in commands.items()}
"""Every command with its one-line help, in the order of the data flow."""


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one only when it runs."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._made: dict[str, click.Command] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the data flow."""
        return [*COMMANDS, *(name for name in ANALYSES if name not in COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module; None for an unknown name (click then suggests)."""
        if cmd_name in ANALYSES:
            from trails.cli.analysis import command_for

            command = command_for(cmd_name)
        elif cmd_name in COMMANDS:
            command = importlib.import_module(f"trails.cli.{cmd_name.replace('-', '_')}").command
            assert isinstance(command, click.Command)
        else:
            return None
        from trails.cli.completion import with_offers
        from trails.cli.values import with_plain_values

        # a command is made once: who asks for it again, as completion and the help do, gets the same
        if cmd_name not in self._made:
            self._made[cmd_name] = with_plain_values(with_offers(cmd_name, command))
        return self._made[cmd_name]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by stage, without importing them."""
        width = max(map(len, COMMANDS))
        for stage, commands in STAGES.items():
            added = [name for name in ANALYSES if name not in COMMANDS] if stage == ANALYSE else []
            rows = [*commands.items(), *((name, "An analysis of all chains of a run.") for name in added)]
            with formatter.section(stage):
                formatter.write_dl([(f"{name:<{width}}", text) for name, text in rows])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="trails")
def cli() -> None:
    """A graph database of reasoning trails.

    \b
    trails ingest chains.jsonl          read, segment, measure, store, load
    trails query most-surprising        ask a named question
    trails export --subgraph roles:IF --format trl -o train.jsonl

    Data goes to stdout, progress and warnings to stderr.
    """
