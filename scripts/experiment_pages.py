"""Write the pages of ``docs/experiments`` from its rows: one page for each experiment, and the tables of the index and of
``docs/limits.md``.

    python scripts/experiment_pages.py [--check]

With ``--check`` nothing is written; the exit code is 1 when a page differs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path, PurePosixPath
from typing import Any

from trails.experiments import experiments
from trails.experiments.base import plan_hash
from trails.experiments.report import (
    commits_table,
    failed_table,
    first_claims,
    index_table,
    markdown,
    pending,
    roles_table,
)
from trails.experiments.runner import RESULTS, development, read_results
from trails.schema import stable_hash

PAGES = Path(__file__).parents[1] / "docs" / "experiments"
COMMITS = PAGES / "commits.json"
CODE = tuple(f"src/trails/{part}" for part in ("experiments", "train", "measure"))


def first_commit(digest: str) -> dict[str, Any] | None:
    """The first commit whose ``results.jsonl`` holds the plan of this hash; None before it is committed or without git."""
    done = subprocess.run(
        ["git", "log", "--reverse", "--format=%H %at", f'-S"sha":"{digest}"', "--", str(PAGES / RESULTS)],
        cwd=PAGES, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = done.stdout.split()
    return {"commit": found[0][:7], "time": int(found[1])} if done.returncode == 0 and found else None


def code_commit(digest: str, before: str) -> str:
    """The latest commit up to ``before`` whose code has the digest that a plan names; empty where none has."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=PAGES.parents[1], capture_output=True, text=True, check=False)
        return done.stdout

    for commit in git("log", "--format=%h", "-60", before, "--", *CODE).split():
        files = [PurePosixPath(name) for name in git("ls-tree", "-r", "--name-only", commit, *CODE).split()]
        source = sorted(file.relative_to("src/trails") for file in files if file.suffix == ".py")
        if digest == stable_hash(*(f"{file} {git('show', f'{commit}:src/trails/{file}')}" for file in source)):
            return commit
    return ""


def commits() -> dict[str, dict[str, Any]]:
    """When each plan was committed, as ``commits.json`` has it; what it lacks from the history."""
    found: dict[str, dict[str, Any]] = json.loads(COMMITS.read_text("utf-8")) if COMMITS.is_file() else {}
    for name, stored in read_results(PAGES / RESULTS).items():
        digest = plan_hash(stored.plan)
        if found.get(name, {}).get("plan") != digest and (commit := first_commit(digest)):
            found[name] = {"plan": digest, **commit, "code": code_commit(stored.plan["code"], commit["commit"])}
    return found


def pages() -> dict[Path, str]:
    """Every page with its text."""
    found = read_results(PAGES / RESULTS)
    plans = {name: found[name].plan for name in experiments() if name in found}
    tried = {name: development(PAGES / RESULTS, name) for name in plans}
    when = commits()
    written = {COMMITS: json.dumps(when, indent=1) + "\n"}
    for name, experiment in experiments().items():
        text = pending(experiment)
        if name in found:
            plan = found[name].plan
            text = markdown(experiment, found[name].rows, plan, plan_hash(plan), tried[name], when.get(name))
        written[PAGES / f"{name}.md"] = text
    rows = {name: (found[name].rows if name in found else None) for name in experiments()}
    for page, mark, table in (
        (PAGES / "index.md", "verdicts", index_table(rows, plans, tried)),
        (PAGES / "index.md", "seventeen", first_claims(rows)),
        (PAGES / "index.md", "registered", commits_table(rows, when)),
        (PAGES / "index.md", "roles", roles_table(plans)),
        (PAGES.parent / "limits.md", "failed", failed_table(rows, plans, tried)),
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
    texts = pages()
    differing = [path for path, text in texts.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in differing:
        print(f"{path} differs from its rows" if check else f"{path} written")
    if not check:
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")
    return int(check and bool(differing))


if __name__ == "__main__":
    raise SystemExit(main())
