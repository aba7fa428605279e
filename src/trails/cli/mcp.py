"""trails mcp"""

from __future__ import annotations

from pathlib import Path

import click

from trails.cli.common import device_option, home_option, run_model_option, store_option
from trails.cli.scores import settings_for


@click.command("mcp", context_settings={"help_option_names": ["-h", "--help"]})
@run_model_option
@device_option
@home_option
@store_option
def command(model: str | None, device: str | None, home: Path | None, store: str | None) -> None:
    """Let an assistant query the graph over the Model Context Protocol: six tools that read, none that writes.

    The server speaks on standard input and output only; the assistant's program starts it. Needs the extra mcp: pip install
    'trails[mcp]'.

    \b
    trails mcp
    trails mcp --home /data/trails
    """
    from trails.pipeline.assistant import serve

    serve(settings_for(home, store, model=model, device=device))
