"""Write the pages of ``docs/experiments`` from its rows: one page for each experiment, and the tables of the index and of
``docs/limits.md``.

    python scripts/experiment_pages.py [--check]

With ``--check`` nothing is written; the exit code is 1 when a page differs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from trails.experiments import experiments
from trails.experiments.base import plan_hash
from trails.experiments.report import failed_table, first_claims, index_table, markdown, pending
from trails.experiments.runner import RESULTS, read_results

PAGES = Path(__file__).parents[1] / "docs" / "experiments"


def pages() -> dict[Path, str]:
    """Every page with its text."""
    found = read_results(PAGES / RESULTS)
    written = {}
    for name, experiment in experiments().items():
        text = pending(experiment)
        if name in found:
            text = markdown(experiment, found[name].rows, found[name].plan, plan_hash(found[name].plan))
        written[PAGES / f"{name}.md"] = text
    rows = {name: (found[name].rows if name in found else None) for name in experiments()}
    for page, mark, table in (
        (PAGES / "index.md", "verdicts", index_table(rows)),
        (PAGES / "index.md", "seventeen", first_claims(rows)),
        (PAGES.parent / "limits.md", "failed", failed_table(rows)),
    ):
        begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
        text = written.get(page) or page.read_text(encoding="utf-8")
        written[page] = f"{text[: text.index(begin) + len(begin)]}\n\n{table}\n\n{text[text.index(end) :]}"
    return written


def main() -> int:
    """Write or compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    differing = [
        path for path, text in pages().items() if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    for path in differing:
        print(f"{path} differs from its rows" if check else f"{path} written")
    if not check:
        for path, text in pages().items():
            path.write_text(text, encoding="utf-8")
    return int(check and bool(differing))


if __name__ == "__main__":
    raise SystemExit(main())
