"""Neo4j Browser itself, in headless Chromium: favourites and style sheet are imported, queries answer, pictures appear."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
from tests.neo4j.servers import shared
from tests.store.factory import corpus, make_run

from trails.store.browser import (
    DASHBOARD,
    FAVOURITES,
    GUIDE,
    NODE_COLOURS,
    ROLE_COLOURS,
    ROLE_LABELS,
    STYLE,
    browser_address,
    favourite,
    save_files,
)
from trails.store.queries import named_queries
from trails.store.rows import graph_batch

PLAYWRIGHT = "playwright-core@1.56.1"


def playwright() -> Path:
    """Folder with playwright-core; installed once into the cache. It drives the system's Chromium and brings none."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trails" / "playwright"
    if not (cache / "node_modules" / "playwright-core").is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(cache), PLAYWRIGHT]
        subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return cache


def drive(plan: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run the script and return what it saw."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium, "headless Chromium is needed: apt-get install chromium"
    path = folder / "plan.json"
    path.write_text(json.dumps(plan | {"chromium": chromium, "library": str(playwright())}))
    script = Path(__file__).with_name("browser.mjs")
    done = subprocess.run(["node", str(script), str(path)], capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


@pytest.mark.neo4j
@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.xdist_group("neo4j-lts")
def test_favourites_style_and_pictures_in_the_real_browser(tmp_path: Path) -> None:
    server = shared("LTS")
    server.empty()
    run = make_run()
    traces = corpus(6, run)
    with server.open() as store:
        store.ensure_schema()
        store.write([graph_batch(traces, {run.id: run})])
    save_files(tmp_path)
    queries = named_queries()
    chain = traces[4].chain.id
    port = int(server.browser.split(":")[2].split("/")[0])
    address = browser_address(server.uri, "neo4j", port) + "&preselectAuthMethod=NO_AUTH"
    parameters = f':param chain => "{chain}";\n:param run => "{run.id}";\n:param limit => 50;'
    seen = drive(
        {
            "address": address,
            "files": [str(tmp_path / FAVOURITES), str(tmp_path / STYLE)],
            "statements": [
                {"name": "parameters", "text": parameters},
                {"name": "chain", "text": queries["chain-graph"].statement},
                {"name": "roles", "text": ROLE_LABELS},
                {"name": "coloured", "text": "MATCH p = (c:Chain {id: $chain})-[:HAS_STEP]->() RETURN p"},
                {"name": "steps", "text": queries["chain-steps"].statement},
            ],
            "pictures": str(tmp_path),
            "settle": 1500,
        },
        tmp_path,
    )
    assert sorted(seen["favourites"]) == sorted(favourite(query) for query in queries.values())
    assert json.loads(seen["style"])["node.Step"]["caption"] == "{index} {role} {text}"
    n_steps = len(traces[4].steps)
    assert f"Step ({n_steps})" in seen["frames"]["chain"]
    assert f"NEXT_STEP ({n_steps - 1})" in seen["frames"]["chain"]
    assert traces[4].steps[0].role in seen["frames"]["steps"]
    roles = {step.role for step in traces[4].steps}
    assert {ROLE_COLOURS[role] for role in roles} <= set(seen["fills"]["coloured"])
    assert NODE_COLOURS["Step"][0] in seen["fills"]["chain"]
    assert NODE_COLOURS["Step"][0] not in seen["fills"]["coloured"]
    assert (tmp_path / "chain.png").stat().st_size > 10_000
    server.empty()


def test_files_hold_every_query_with_values_for_its_parameters(tmp_path: Path) -> None:
    paths = save_files(tmp_path)
    assert [path.name for path in paths] == [FAVOURITES, STYLE, GUIDE, DASHBOARD]
    with zipfile.ZipFile(tmp_path / FAVOURITES) as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    queries = named_queries()
    assert set(texts) == {f"trails/{name}.cypher" for name in queries}
    for name, query in queries.items():
        text = texts[f"trails/{name}.cypher"]
        assert text.startswith(f"// {query.title}\n// ")
        assert [line.split()[1] for line in text.splitlines() if line.startswith(":param")] == [
            parameter.name for parameter in query.parameters
        ]
        assert query.statement.strip().rstrip(";") in text
        assert name in (tmp_path / GUIDE).read_text(encoding="utf-8")
    before = (tmp_path / FAVOURITES).read_bytes()
    save_files(tmp_path)
    assert (tmp_path / FAVOURITES).read_bytes() == before


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("bolt://localhost:7687", "http://localhost:7474/browser/?dbms=bolt://neo4j@localhost:7687"),
        ("neo4j+s://db.example", "http://db.example:7474/browser/?dbms=neo4j+s://neo4j@db.example:7687"),
        ("bolt://[::1]:7777", "http://[::1]:7474/browser/?dbms=bolt://neo4j@[::1]:7777"),
    ],
)
def test_the_address_carries_the_connection(uri: str, address: str) -> None:
    assert browser_address(uri, "neo4j") == address
