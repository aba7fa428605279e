"""The main job from the command line, with the uniform scorer: its numbers are known exactly."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from trails.schema import FORMAT_VERSION
from trails.store.traces import TraceStore


def test_ingest_measures_once_and_says_so(trails, chains_file: Path) -> None:
    first = trails("ingest", chains_file, "--json").json()
    assert (first["read"], first["measured"], first["already_measured"], first["bad"]) == (4, 4, 0, 0)
    # every token of a uniform model over 256 bytes costs ln 256, whatever the text
    assert first["mean_surprisal"] == pytest.approx(math.log(256), abs=1e-6)
    assert first["uniform_surprisal"] == pytest.approx(math.log(256))
    assert first["roles"]["IF"] >= 3
    second = trails("ingest", chains_file, "--json").json()
    assert (second["read"], second["measured"], second["already_measured"]) == (4, 0, 4)
    text = trails("ingest", chains_file).err
    assert "4 were measured before" in text


def test_dry_run_writes_nothing(trails, chains_file: Path, tmp_path: Path) -> None:
    shown = trails("ingest", chains_file, "--dry-run")
    assert "nothing was measured or written" in shown.err
    assert not (tmp_path / "home").exists()


def test_options_of_a_model_are_refused_where_there_is_none(trails, chains_file: Path, tmp_path: Path) -> None:
    error = trails("ingest", chains_file, "--bos", "always", "--window", "stride", code=2).err
    said = " ".join(error.split())
    assert "runs no model and sees no context, so --bos, --window would change nothing" in said
    assert not (tmp_path / "home").exists()
    assert trails("ingest", chains_file, "--dry-run", "--think", code=2).err


def test_bad_records_alone_are_an_error_however_many_are_tolerated(trails, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": ""}\n{"text": ""}\n', encoding="utf-8")
    for dry in ((), ("--dry-run",)):
        error = trails("ingest", tmp_path / "bad.jsonl", "--bad-tolerance", 9, *dry, code=3).err
        error = " ".join(error.split())
        assert "no chain was read: 2 bad records and no good one. The first:" in error
        assert "bad.jsonl:1" in error


@pytest.mark.slow
def test_limit_and_standard_input(trails, chains_file: Path, tmp_path: Path) -> None:
    assert trails("ingest", chains_file, "--limit", "2", "--json").json()["measured"] == 2
    environment = {**os.environ, "TRAILS_HOME": str(tmp_path / "other")}
    with chains_file.open("rb") as source:
        done = subprocess.run(
            [sys.executable, "-m", "trails", "ingest", "-", "--json"],
            stdin=source,
            capture_output=True,
            env=environment,
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["measured"] == 4


@pytest.mark.slow
def test_order_and_repetition_do_not_matter(trails, chains_file: Path, tmp_path: Path) -> None:
    digests = set()
    lines = chains_file.read_text(encoding="utf-8").splitlines(keepends=True)
    generator = random.Random(7)
    for trial in range(10):
        generator.shuffle(lines)
        folder = tmp_path / f"order{trial}"
        folder.mkdir()
        path = folder / "chains.jsonl"
        path.write_text("".join(lines), encoding="utf-8")
        home = tmp_path / f"home{trial}"
        arguments = ("ingest", path, "--home", home, "--batch-tokens", 1 + trial * 64)
        trails(*arguments)
        if trial < 3:
            trails(*arguments)
        verdict = trails("verify", "--home", home, "--json").json()
        assert verdict["differences"] == []
        assert verdict["graph"] == verdict["expected"]
        digests.add((verdict["content"], verdict["values"], verdict["graph"]))
    assert len(digests) == 1


@pytest.mark.slow
def test_a_lost_graph_is_rebuilt_from_shards(trails, chains_file: Path, tmp_path: Path) -> None:
    trails("ingest", chains_file)
    before = trails("verify", "--json").json()
    for path in (tmp_path / "home").iterdir():
        if path.name.startswith("graph"):
            subprocess.run(["rm", "-r", str(path)], check=True)
    assert trails("verify", code=1).out.count("differs") > 0
    assert "loaded 4 chains" in trails("rebuild").err
    assert trails("verify", "--json").json() == before


@pytest.mark.slow
def test_show_names_chains_by_id_prefix_and_record(trails, chains_file: Path) -> None:
    trails("ingest", chains_file)
    listed = trails(
        "cypher", "MATCH (c:Chain) RETURN c.id AS id, c.source AS source, c.source_id AS record", "--json"
    ).json()
    chain = listed[0]["id"]
    by_record = trails("show", f"{listed[0]['source']}:{listed[0]['record']}").out
    assert chain in by_record
    assert trails("show", chain[:10]).out == by_record
    for number, row in enumerate(json.loads(line) for line in chains_file.read_text(encoding="utf-8").splitlines()):
        (found,) = trails("chains", f"chains.jsonl:{number + 1}", "--json").json()
        assert found["line"] == number + 1
        assert found["words"].split()[0] == row["answer"].split()[0]
        assert trails("show", f"gsm8k/chains:{number + 1}", "--json").json()["chain"] == found["chain"]
    assert "a uniform guess over 256 tokens: 5.545" in by_record
    record = trails("show", chain, "--json").json()
    assert "".join(step["text"] for step in record["steps"]) == record["text"]
    # without a question there is no context before the first token; here every chain has one
    assert [token["surprisal"] for token in record["tokens"]] == pytest.approx([math.log(256)] * len(record["tokens"]))
    assert "no chain fits" in trails("show", "cffff", code=2).err
    assert "Measures: surprisal" not in trails("show", chain, "--measure", "rank").out


BAD = [
    (["ingest"], 2, "Error: nothing to ingest. Give files or folders, - for standard input, or --sample.\n"),
    (["ingest", "{chains}", "--limit", "0"], 2, "Error: Invalid value for '--limit': 0 is not in the range x>=1.\n"),
    (
        ["ingest", "{chains}", "--states", "a"],
        2,
        "Error: layers 'a' cannot be read. Write for example 10-19 or 3,7,10-19.\n",
    ),
    (["show", "c1"], 5, "{home} holds no trails"),
    (["query", "nothing-such"], 2, "'nothing-such'"),
    (["export", "--subgraph", "all", "--format", "nothing", "-o", "x.jsonl"], 2, "'nothing'"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), BAD, ids=[" ".join(case[0][:3]) for case in BAD])
def test_wrong_use_gets_one_clear_message(
    arguments: list[str], code: int, message: str, trails, chains_file: Path, tmp_path: Path
) -> None:
    names = {"chains": chains_file, "home": tmp_path / "home"}
    done = trails(*(argument.format(**names) for argument in arguments), code=None)
    assert done.code == code, done
    assert message.format(**names) in done.err


def test_a_home_of_a_newer_version_is_refused(trails, chains_file: Path, tmp_path: Path) -> None:
    trails("ingest", chains_file)
    manifest = tmp_path / "home" / "trails.json"
    content = json.loads(manifest.read_text())
    content["format"] = FORMAT_VERSION + 1
    manifest.write_text(json.dumps(content))

    def shards() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "home").rglob("*") if path.suffix != ""}

    before = shards()
    for command in (("ingest", chains_file), ("verify",), ("rebuild",), ("status",)):
        assert f"(format {FORMAT_VERSION + 1}, this one knows {FORMAT_VERSION})" in trails(*command, code=5).err
    assert shards() == before


@pytest.mark.slow
def test_a_second_writer_is_refused_and_nothing_is_lost(trails, chains_file: Path, tmp_path: Path) -> None:
    from trails.store.traces import TraceStore

    trails("ingest", chains_file, "--limit", 1)
    with TraceStore(tmp_path / "home", write=True):
        assert f"{os.getpid()}" in trails("ingest", chains_file, code=5).err
    assert trails("ingest", chains_file, "--json").json()["measured"] == 3


def test_one_bad_record_stops_before_anything_is_measured(trails, chains_file: Path, tmp_path: Path) -> None:
    with chains_file.open("a", encoding="utf-8") as file:
        file.write('{"question": "broken"\n')
    done = trails("ingest", chains_file, code=3)
    assert f"{chains_file.name}:5" in done.err
    assert not list((tmp_path / "home").rglob("*.parquet"))
    report = tmp_path / "bad.jsonl"
    tolerant = trails("ingest", chains_file, "--bad-tolerance", 1, "--report-file", report, "--json").json()
    assert (tolerant["measured"], tolerant["bad"]) == (4, 1)
    assert len(report.read_text(encoding="utf-8").splitlines()) == 1


@pytest.mark.slow
def test_a_damaged_graph_is_made_again_by_rebuild_fresh(trails, chains_file: Path, tmp_path: Path) -> None:
    trails("ingest", chains_file)
    expected = trails("verify", "--json").json()
    (tmp_path / "home" / "graph.kgl").write_bytes(b"not a graph")
    assert "can be made again from the shards" in trails("status", code=None).err + trails("verify", code=5).err
    assert "loaded 4 chains" in trails("rebuild", "--fresh").err
    assert trails("verify", "--json").json() == expected


@pytest.mark.slow
def test_a_damaged_shard_is_set_aside_and_measured_again(trails, chains_file: Path, tmp_path: Path) -> None:
    trails("ingest", chains_file, "--limit", 2)
    trails("ingest", chains_file)
    expected = trails("verify", "--json").json()
    assert expected["damaged"] == expected["advice"] == []
    home = tmp_path / "home"
    shard = max((home / "shards").iterdir())
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    shard.write_bytes(damaged)
    for command in (("show", "chains.jsonl:1"), ("rebuild", "--fresh"), ("ingest", chains_file), ("status",)):
        done = trails(*command, code=None)
        if done.code:
            assert done.code == 5
            assert f"shard {shard} is damaged" in done.err
            assert f"trails verify --set-aside --home {home}" in done.err
    said = trails("verify", code=1).out
    assert f"differs     shard {shard.name} is damaged" in said
    assert f"now         set the damaged shards aside: trails verify --set-aside --home {home}" in said
    moved = trails("verify", "--set-aside", code=1).out
    assert "(sources: gsm8k/chains), only what is missing is measured: trails ingest PATH" in moved
    assert not shard.exists()
    assert (home / "damaged" / shard.name).read_bytes() == damaged
    assert trails("ingest", chains_file, "--json").json()["measured"] == 2
    assert trails("verify", "--json").json() == expected


@pytest.mark.slow
def test_measures_asked_for_later_are_added_and_nothing_else_changes(trails, chains_file: Path, tmp_path: Path) -> None:
    trails("ingest", chains_file, "--limit", 2, "--premises")
    before = trails("verify", "--json").json()
    added = trails("ingest", chains_file, "--premises", "--token-attention", "--peaks", 2, "--json").json()
    assert (added["added"], added["measured"], added["already_measured"]) == (2, 2, 2)
    again = trails("ingest", chains_file, "--premises", "--token-attention", "--peaks", 1, "--json").json()
    assert (again["added"], again["measured"]) == (0, 0)
    found = trails("verify", "--json").json()
    assert found["differences"] == []
    assert found["values"] != before["values"]
    # the same as if all of it had been asked for at once
    once = tmp_path / "once"
    trails("ingest", chains_file, "--premises", "--token-attention", "--peaks", 2, "--home", once)
    assert trails("verify", "--home", once, "--json").json() == found
    rows = trails("cypher", "MATCH (:Step)-[r:LEADS_TO]->(:Step) RETURN r.nll_given_question AS n", "--json").json()
    assert rows
    assert all(row["n"] == pytest.approx(math.log(256)) for row in rows)


@pytest.mark.slow
def test_alternatives_are_kept_by_default_and_added_only_when_asked_for(
    trails, chains_file: Path, tmp_path: Path
) -> None:
    trails("ingest", chains_file, "--top-k", 0, "--limit", 2)
    with TraceStore(tmp_path / "home") as shards:
        assert [t.top_id for t in shards.traces()] == [None, None]
    bare = trails("verify", "--json").json()
    refused = trails("show", "#1", "--alternatives", code=2).err
    assert "hold no alternatives" in refused
    assert "--top-k 5" in refused
    again = trails("ingest", chains_file, "--limit", 2, "--json").json()
    assert (again["added"], again["measured"]) == (0, 0), "the same command again measures nothing twice"
    assert trails("verify", "--json").json() == bare
    added = trails("ingest", chains_file, "--limit", 2, "--top-k", 5, "--json").json()
    assert (added["added"], added["measured"]) == (2, 0)
    assert trails("ingest", chains_file, "--limit", 2, "--top-k", 3, "--json").json()["added"] == 0
    found = trails("verify", "--json").json()
    assert found["differences"] == []
    once = tmp_path / "once"
    trails("ingest", chains_file, "--limit", 2, "--home", once)
    assert trails("verify", "--home", once, "--json").json() == found
    rows = trails("cypher", "MATCH (:Token)-[r:NEXT]->(:Token) RETURN max(r.margin) AS most", "--json").json()
    assert rows == [{"most": 0.0}]
    shown = trails("show", "#1", "--alternatives").out
    assert "<0x00> 0.39 %, <0x01> 0.39 %" in shown.replace("\\x00", "<0x00>").replace("\\x01", "<0x01>")
    (first, *_) = trails("show", "#1", "--alternatives", "--json").json()["tokens"]
    assert [a["id"] for a in first["alternatives"]] == [0, 1, 2, 3, 4]
    assert all(a["log_probability"] == pytest.approx(-math.log(256)) for a in first["alternatives"])
    assert first["margin"] == 0


@pytest.mark.slow
def test_a_failed_first_ingest_leaves_nothing(trails, chains_file: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert "hidden states" in trails("ingest", chains_file, "--states", "1", code=4).err
    assert not home.exists()
    home.mkdir()
    (home / "mine.txt").write_text("stays")
    trails("ingest", chains_file, "--states", "1", code=4)
    assert [path.name for path in home.rglob("*")] == ["mine.txt"]
    trails("ingest", chains_file)
    trails("ingest", chains_file, "--states", "1", code=4)
    assert trails("verify", "--json").json()["chains"] == 4


def test_a_home_is_its_owner_s(trails, chains_file: Path, tmp_path: Path) -> None:
    trails("ingest", chains_file)
    for folder in ("home", "home/shards", "home/runs"):
        assert (tmp_path / folder).stat().st_mode & 0o777 == 0o700


def test_bad_records_are_named_without_a_report_file(trails, chains_file: Path) -> None:
    with chains_file.open("a", encoding="utf-8") as file:
        file.write("".join(f'{{"question": "broken {n}"\n' for n in range(12)))
    for dry in (["--dry-run"], []):
        done = trails("ingest", chains_file, "--bad-tolerance", 12, *dry)
        for line in range(5, 15):
            assert f"bad         {chains_file}:{line}: broken JSON" in done.err
        assert f"{chains_file}:15:" not in done.err
        assert "and 2 more bad records; all of them: --report-file FILE" in done.err
    record = trails("ingest", chains_file, "--bad-tolerance", 12, "--json").json()
    assert len(record["bad_records"]) == 12


@pytest.mark.slow
def test_a_dry_removal_lists_what_would_go(trails, chains_file: Path, tmp_path: Path) -> None:
    many = tmp_path / "many.jsonl"
    many.write_text(
        "".join(json.dumps({"chain": f"If {n}, then so. But no."}) + "\n" for n in range(13)), encoding="utf-8"
    )
    trails("ingest", many)
    ids = sorted(row["chain"] for row in trails("chains", "--json").json())
    source = trails("chains", "--json").json()[0]["source"]
    said = trails("remove", "source", source, "--dry-run").out
    assert f"would go    13 chains\nchains      {', '.join(ids[:10])} and 3 more (--json lists all)\n" in said
    assert f"chains      {ids[0]}\n" in trails("remove", "chain", ids[0], "--dry-run").out
    assert len(trails("chains", "--json").json()) == 13


@pytest.mark.slow
def test_chains_give_nats_per_token_beside_nats_and_end_between_words(trails, chains_file: Path) -> None:
    long = {
        "chain": "If the quick brown fox jumps over the lazy dog, then extraordinarily long words follow it. So be it."
    }
    with chains_file.open("a", encoding="utf-8") as file:
        file.write(json.dumps(long) + "\n")
    trails("ingest", chains_file, "--reader", "records", "--field", "chain=answer", "--bad-tolerance", 1)
    rows = trails("chains", "--json").json()
    for row in rows:
        assert row["nats_per_token"] == pytest.approx(math.log(256))
        assert row["nats"] == pytest.approx(row["nats_per_token"] * row["tokens"])
    shown = trails("chains").out
    assert "per token" in shown
    assert "5.5452" in shown


@pytest.mark.slow
def test_an_option_for_another_kind_of_overlap_is_refused(trails, chains_file: Path) -> None:
    trails("ingest", chains_file)
    for given in (["--min-steps", 4], ["--kind", "skeleton", "--min-tokens", 9], ["--kind", "masked", "--layer", 3]):
        said = trails("overlaps", *given, code=2).err
        assert f"Error: {given[-2]} does nothing for --kind" in said
    trails("overlaps", "--min-tokens", 5)
    trails("overlaps", "--kind", "skeleton", "--min-steps", 2)


@pytest.mark.parametrize("field", ["text=", "chain=", "=x", "chain"])
def test_a_field_without_a_name_is_refused(trails, chains_file: Path, field: str) -> None:
    assert "write PART=FIELD" in trails("ingest", chains_file, "--dry-run", "--field", field, code=2).err


def test_a_file_of_texts_is_refused_before_the_model_is_opened(trails, chains_file: Path, tmp_path: Path) -> None:
    trails("ingest", chains_file)
    done = trails("capture", chains_file, "--model", "no/such-model", code=2)
    assert done.err == (
        "Error: 4 texts were to be judged, and the map would have 4 chains; 20 are needed for its nulls. Ingest more: "
        "trails ingest PATH\n"
    )


@pytest.mark.parametrize("command", ["bridge", "capture", "diff", "gaps", "intervene", "recall", "variants"])
def test_help_says_whose_model_is_the_default(trails, command: str) -> None:
    assert "default: TRAILS_MODEL, else the model that the run names" in " ".join(trails(command, "--help").out.split())


@pytest.mark.slow
def test_the_examples_of_the_help_run(trails, chains_file: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    rows = [{"prompt": "Is 4 even?", "response": "If 4 is divisible by 2, then it is even. So it is."}]
    (tmp_path / "data" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "notes.md").write_text("If it rains, the street is wet. But it is dry.\n", encoding="utf-8")
    program = tmp_path / "bin" / "trails"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m trails "$@"\n')
    program.chmod(0o700)
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    shown = trails("ingest", "--help").out.split("Options:")[0]
    examples = [line.strip() for line in shown.splitlines() if line.startswith("  trails ") or "| trails" in line]
    several = [
        example for example in examples if "--models" in example
    ]  # a model of a hub; tests/response runs members
    examples = [example for example in examples if example not in several]
    assert (len(examples), len(several)) == (4, 1)
    for number, example in enumerate(examples):
        environment["TRAILS_HOME"] = str(tmp_path / f"home{number}")
        done = subprocess.run(example, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, (example, done.stderr)
        assert "measured    " in done.stderr
