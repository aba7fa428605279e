"""Is this training what was meant? What can be said before a model is loaded."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trails.errors import ModelError, UsageError
from trails.export import read_records
from trails.export.record import DRIFT
from trails.platform.files import contents, sha256
from trails.schema import Run, stable_hash
from trails.train.options import TrainOptions, said

NOTHING_TO_LEARN = (
    "the objective 'attention' needs stored maps, or rows with targets. Give the run that holds maps: --teacher RUN; or export "
    "a block with DRIFT and OBJECTIVE → attention: trails export --stellator FILE --format trails."
)
"""What the objective is told that has nothing to move attention towards."""


@dataclass(frozen=True, slots=True)
class ExportHead:
    """What a canonical export says of itself: the run that measured its rows, weights, tokenizer, its SHA-256, and whether it
    has targets of the attention objective."""

    path: Path
    run: str
    model_sha: str
    tokenizer_sha: str
    digest: str
    targets: bool = False


def export_head(path: Path) -> ExportHead:
    """Read the first row. Raises UsageError for a file that is missing, empty, or in another format."""
    if not path.is_file():
        raise UsageError(f"{path} does not exist. Run: trails export --subgraph SELECTION --format trails -o {path}")
    table = next((table for table in read_records(path) if len(table)), None)
    if table is None:
        raise UsageError(f"{path} holds no rows. Run: trails export --subgraph SELECTION --format trails -o {path}")
    first = table.slice(0, 1).select(["run", "model_sha", "tokenizer_sha"]).to_pylist()[0]
    return ExportHead(
        path, first["run"], first["model_sha"], first["tokenizer_sha"], sha256(path), DRIFT in table.column_names
    )


def check_model(head: ExportHead, run: Run, *, force: bool = False) -> None:
    """Raises UsageError unless the model of ``run`` is the one that measured the export.

    ``force`` accepts other weights; another tokenizer is refused in any case, because the token ids would mean other text.
    """
    if head.tokenizer_sha != run.tokenizer:
        raise UsageError(
            f"{head.path} was made with tokenizer {head.tokenizer_sha[:8]}, the model {run.model} has {run.tokenizer[:8]}."
            " Measure and export with this model: trails ingest, trails export"
        )
    if head.model_sha != run.revision and not force:
        raise UsageError(
            f"{head.path} was measured with other weights ({head.model_sha[:12]}) than those of {run.model} "
            f"({run.revision[:12]}): its masks, weights and order say nothing about this model. Give the model "
            f"of the export with"
            " --model, export again from a run of this one, or add --force."
        )


def identity_of(
    head: ExportHead, *, keep: Collection[str] | None = None, replay: Path | None = None, replay_at_random: bool = False
) -> dict[str, str]:
    """What the record of a training names its rows by, as far as it is known before they are read: the number of rows that a
    journal feeds again is written before ``replay``."""
    identity = {"export": head.digest}
    if keep is not None:
        identity["rows"] = f"of {len(keep)} chains, {stable_hash(*sorted(keep))}"
    if replay is not None:
        identity["replay"] = f"rows {'at random ' if replay_at_random else ''}for {sha256(replay)}"
    return identity


def held_training(output: Path, *, overwrite: bool = False) -> dict[str, Any] | None:
    """The record of the training that a folder holds and that is kept. None where there is none: no folder, an empty one, a
    start that failed or that ended before its first checkpoint, or one that is overwritten. Raises UsageError for a folder
    that holds something else, which is overwritten in no case; ModelError for a damaged record.
    """
    if not output.exists() or not any(contents(output)):
        return None
    known = read_json(output / "train.json")
    if known is None:
        raise UsageError(
            f"{output} is not empty, and holds no training. Choose another folder for the adapter: -o FOLDER"
        )
    kept = known.get("finished") or any((output / "checkpoints").glob("*"))
    return known if kept and not overwrite else None


def check_output(output: Path, identity: Mapping[str, str], options: TrainOptions, *, overwrite: bool = False) -> None:
    """Raises UsageError for a folder that holds something else, or another training than that of ``identity`` and ``options``:
    whatever is known of it before a model is loaded (of ``identity`` all but the model and the number of rows fed again, of
    ``options`` not the steps of one pass, nor the layers that the export names).
    """
    known = held_training(output, overwrite=overwrite)
    if known is None:
        return
    asked = said(options)
    for name, later in (("steps", not options.steps), ("layers", options.layers is None)):
        if later:
            del asked[name]
    if "layers" in asked:
        asked["layers"] = sorted(set(options.layers or ()))
    if _differences(known, identity, asked):
        raise other_training(output, known, identity, asked)


def other_training(
    output: Path, known: Mapping[str, Any], identity: Mapping[str, str], settings: Mapping[str, Any]
) -> UsageError:
    """The error for a folder whose training is not the one that was asked for, with what differs."""
    differs = _differences(known, identity, settings) or ["other attention maps are learnt"]
    more = f", and {len(differs) - 3} more" if len(differs) > 3 else ""
    return UsageError(
        f"{output} holds another training (of {known.get('title')}): {'; '.join(differs[:3])}{more}. Choose another folder, or "
        "add --overwrite."
    )


_ROWS = ("export", "rows", "replay")
"""What names the rows; a record leaves out what is not used."""
_UNKNOWN = ("steps", "layers")
"""Options that can be unknown until the rows and the model are there."""


def _differences(known: Mapping[str, Any], identity: Mapping[str, str], settings: Mapping[str, Any]) -> list[str]:
    """In words, what of ``identity`` and ``settings`` is not that of a record; a name that neither has is the same."""
    has, options = known.get("identity", {}), known.get("options", {})
    found = []
    for name in dict.fromkeys((*_ROWS, *identity)):
        there, asked = has.get(name, ""), identity.get(name, "")
        if there != asked and not (name == "replay" and asked and there.endswith(asked)):
            found.append(_OTHER.get(name, f"another {name}"))
    settings = json.loads(json.dumps(settings))  # as the record gives them back
    for name in sorted(options.keys() | settings.keys()):
        if name in _UNKNOWN and name not in settings:
            continue
        there, asked = (_value(values.get(name)) for values in (options, settings))
        if options and there != asked:
            found.append(f"its {name.replace('_', ' ')} is {there}, and {asked} was asked for")
    return found


_OTHER = {
    "export": "it was trained on another export",
    "rows": "it was trained on other rows",
    "replay": "another journal, or none, was fed again",
    "model": "its model has another name",
    "revision": "it was trained with other weights",
}


def _value(value: Any) -> str:
    """A value of an option as an error says it."""
    if isinstance(value, list):
        return ",".join(map(str, value)) or "all"
    return "the default" if value is None else str(value)


def check_adapter(folder: Path) -> Path:
    """The folder if it holds a PEFT adapter in safetensors. Raises ModelError that says what is missing or damaged."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise ModelError(
                f"{folder} has no {name}, so it is not an adapter. Give the folder that training wrote: trails train"
            )
    for name in ("adapter_config.json", "train.json"):
        read_json(folder / name)
    from safetensors import SafetensorError, safe_open

    weights = folder / "adapter_model.safetensors"
    try:
        with safe_open(weights, "numpy"):
            pass
    except (OSError, SafetensorError) as error:
        raise damaged(weights, error) from None
    return folder


def check_base(folder: Path, run: Run) -> None:
    """Raises ModelError when the record of an adapter says that it was trained on other weights than those of ``run``.

    An adapter without a record (of another program) is believed.
    """
    identity = (read_json(folder / "train.json") or {}).get("identity", {})
    if identity.get("revision") not in (None, "", run.revision):
        raise ModelError(
            f"{folder} was trained on {identity.get('model')} with weights {identity['revision'][:12]}; {run.model} has "
            f"{run.revision[:12]}. Give the model that it was trained on with --model, or choose its run with --run."
        )


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file; None where there is none. Raises ModelError for a damaged one."""
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise damaged(path, error) from None


def damaged(path: Path, error: Exception) -> ModelError:
    """The error for a file of an adapter that cannot be read."""
    return ModelError(f"{path} is damaged ({error}). Train again, into another folder: trails train EXPORT -o FOLDER")
