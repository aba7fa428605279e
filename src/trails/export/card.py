"""The data card: what the rows are, where they came from, and what is known to speak against them (Hugging Face format)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files as package_files

from trails.platform.text import counted, percent
from trails.schema import Run

# SPDX identifiers as the Hub spells them
_LICENCES = {
    "mit": "mit",
    "apache-2.0": "apache-2.0",
    "cc by 4.0": "cc-by-4.0",
    "cc-by-4.0": "cc-by-4.0",
    "cc by-sa 4.0": "cc-by-sa-4.0",
    "cc-by-sa-4.0": "cc-by-sa-4.0",
}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


@dataclass(frozen=True, slots=True)
class Counts:
    """What was written. ``sources`` maps (source, licence, language) to rows; surprisal in nats per labelled token.

    ``unlabelled`` rows were left out because no token of them carries a label.
    """

    rows: int
    held_out: int
    tokens: int
    labelled: int
    weightless: int
    chains: int
    variants: int
    mean_surprisal: float
    sources: Mapping[tuple[str, str, str], int]
    components: int = 0
    largest_component: float = 0.0
    shared_grams: int = 0
    spread: float = 0.0
    max_edits: int | None = None
    unlabelled: int = 0
    tags: Mapping[str, int] = field(default_factory=dict)
    stages: int = 0


@cache
def _verdicts() -> dict[str, str]:
    found: dict[str, str] = json.loads(
        package_files("trails.export").joinpath("verdicts.json").read_text(encoding="utf-8")
    )
    return found


def verdict(claim: str) -> str:
    """What the published rows of ``trails experiment mask-order`` say about a claim, as its page says it.

    ``verdicts.json`` is written from those rows by ``scripts/generate_docs.py``, so no figure here is typed by hand.
    """
    return f"{_verdicts()[claim]} (`trails experiment mask-order`, SmolLM2-135M.)"


def findings(mask: str, weights: str, order: str, stratified: bool, layers: Sequence[int]) -> list[str]:
    """Known results that speak against the options that were used, or say what to compare them with."""
    found = []
    if mask.startswith(("surprisal<", "entropy<")):
        found += [verdict(claim) for claim in ("mask", "mask on the task")]
    if mask != "none":
        found.append("Compare with a random mask of the same share of tokens: `--mask random:SHARE`.")
    if order in ("rising", "falling"):
        found += [verdict("rising order"), "Compare with `--order shuffled`."]
        if not stratified:
            found.append("The order is not stratified: expect it to sort by source.")
    if order.startswith("rhythm"):
        found += [verdict("rhythm"), "Compare with shuffled passes."]
    if weights != "uniform":
        found.append(f"No advantage of the weights `{weights}` is known here. Compare with `--weights uniform`.")
    if layers:
        found.append(
            "No advantage of training some layers only is known here: in an earlier experiment (depth, archived) a third of the"
            " layers lay on the learning-drift curve of plain training. Compare at equal held-out loss."
        )
    return found


def card(
    *,
    title: str,
    files: Mapping[str, str],
    run: Run,
    selection: str,
    statement: str,
    parameters: Mapping[str, object],
    digest: str,
    counts: Counts,
    options: Mapping[str, str],
    writer: str,
    settings: str,
    columns: Sequence[str],
    lost: Sequence[str],
    lint: Sequence[str],
    negative: Sequence[str],
    hashes: Mapping[str, str],
    told: Sequence[str] = (),
) -> str:
    """The card as Markdown with a YAML head. ``files`` maps split names to file names; everything printed is content of the
    export, so that the same export gives the same card. ``told`` are further lines, after the selection."""
    licences = sorted({_LICENCES.get(licence.lower(), "other") for _, licence, _ in counts.sources if licence})
    languages = sorted({language for *_, language in counts.sources if language})
    size = next((name for bound, name in _SIZES if counts.rows < bound), "n>1M")
    from huggingface_hub import DatasetCardData  # half a second

    data = DatasetCardData(
        language=languages or None,
        license=(licences[0] if len(licences) == 1 else licences) or None,
        task_categories=["text-generation"],
        size_categories=[size],
        tags=["trails", "reasoning"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": name} for split, name in files.items()],
            }
        ],
    )
    head = ["---", data.to_yaml(), "---", ""]
    body = [f"# {title}", "", f"Training data written by trails in the format `{writer}`.", ""]
    body += ["## Selection", "", "```", selection, "```", ""]
    if statement and statement.strip() != selection.strip():
        body += ["answered by", "", "```cypher", statement.strip(), "```", ""]
    if parameters:
        body += [f"with `{json.dumps(dict(parameters), ensure_ascii=False, sort_keys=True, default=str)}`", ""]
    body += [f"Digest of what was selected: `{digest}`.", ""]
    body += told
    body += ["## Sources", "", "| source | licence | language | rows |", "|---|---|---|---|"]
    for (source, licence, language), rows in sorted(counts.sources.items()):
        body.append(f"| {source or 'unknown'} | {licence or 'unknown'} | {language or 'unknown'} | {rows} |")
    body += [
        "",
        "## Measured by",
        "",
        f"Run `{run.id}`: {run.model}, weights `{run.revision}`, adapter `{run.adapter or 'none'}`, tokenizer"
        f" `{run.tokenizer}`, {run.dtype}, context policy bos={run.bos} template={run.template}.",
        "",
        "## Counts",
        "",
        "| | |",
        "|---|---|",
        f"| rows, train | {counts.rows - counts.held_out} |",
        f"| rows, held out | {counts.held_out} |",
        f"| rows left out because no token of them carries a label | {counts.unlabelled} |",
        f"| chains | {counts.chains} |",
        f"| rows that are microvariants | {counts.variants} |",
        f"| tokens | {counts.tokens} |",
        f"| tokens with loss | {counts.labelled} |",
        f"| rows whose weights are all 0 | {counts.weightless} |",
        f"| mean surprisal of the tokens with loss | {counts.mean_surprisal:.4f} nats |",
    ]
    if counts.stages > 1:
        body.append(f"| stages, one after the other | {counts.stages} |")
    body += [f"| rows with the tag `{tag}` | {rows} |" for tag, rows in sorted(counts.tags.items())]
    if counts.max_edits is not None:
        body.append(f"| largest number of token edits between a variant and its parent | {counts.max_edits} |")
    body += ["", "## Options", "", "| option | value |", "|---|---|"]
    body += [f"| {name} | `{value}` |" for name, value in options.items()]
    body += ["", "## Controls", ""]
    body += [
        f"- A uniform guess over the vocabulary has a surprisal of ln {run.vocab_size} nats; the rows above have"
        f" {counts.mean_surprisal:.4f}."
        if run.vocab_size
        else "- The run does not say the size of its vocabulary.",
        f"- Spread of strata (column `family`) over the order: {counts.spread:.3f} (0 = in proportion everywhere, near 1 ="
        " one after another).",
    ]
    if counts.held_out or counts.components:
        body += [
            f"- 13-grams of tokens shared by train and held-out rows: {counts.shared_grams}.",
            f"- {counted(counts.components, 'group')} of rows without a shared 13-gram; the largest holds"
            f" {percent(counts.largest_component)} of the rows.",
        ]
    body += ["", "## Checks", "", *(f"- {line}" for line in lint), "", "## Known negative results", ""]
    body += [f"- {line}" for line in negative] or ["- None of the options used has a known negative result."]
    if lost:
        body += ["", "## Lost on purpose (`--lossy`)", "", *(f"- {line}" for line in lost)]
    body += ["", "## Columns", "", ", ".join(f"`{name}`" for name in columns), "", "## Loading", "", "```"]
    body += [settings, "```", "", "## Files", "", "| file | SHA-256 |", "|---|---|"]
    body += [f"| {name} | `{value}` |" for name, value in hashes.items()]
    return "\n".join([*head, *body, ""])
