"""The commands end to end on a home measured by the uniform scorer: exact, quick, no model download."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from trails.__main__ import main as program
from trails.analyses import ANALYSES
from trails.analyses.report import Report, ReportTable
from trails.cli import cli
from trails.cli.scores import print_report, text_or_file
from trails.config import load_settings
from trails.errors import InputError, TrailsError, UsageError
from trails.measure import open_scorer
from trails.pipeline import Home, IngestOptions, ingest
from trails.pipeline.results import clear_results


def chains(path: Path, count: int = 30) -> Path:
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            a, b = 1200 + 7 * number, 3100 + 11 * number
            steps = [
                f"If Ann has {a} coins and gets {b} then she has {a}+{b}={a + b} coins.",
                f"But she gives {number + 5} away, so {a + b}-{number + 5}={a + b - number - 5} coins are left.",
                f"Then she doubles them and has {2 * (a + b - number - 5)} coins.",
                f"However the tax takes {number + 9} of these coins from her purse.",
                f"Therefore Ann keeps {2 * (a + b - number - 5) - number - 9} coins.",
            ]
            record = {"question": f"Ann has {a} coins and gets {b}. How many are left?", "text": " ".join(steps)}
            file.write(json.dumps(record) + "\n")
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with thirty chains, measured by the uniform scorer."""
    folder = tmp_path_factory.mktemp("analyses")
    settings = load_settings(home=folder / "home", model="uniform", store="embedded")
    ingest([chains(folder / "ann.jsonl")], settings, IngestOptions(), make_scorer=lambda: open_scorer("uniform"))
    return folder / "home"


def run(home: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, [*arguments, "--home", str(home)], catch_exceptions=True)


def answer(home: Path, *arguments: str) -> Any:
    result = run(home, *arguments, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


def ids(home: Path) -> list[str]:
    with Home(home) as opened:
        return sorted(trace.chain.id for trace in opened.traces())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["exact", "masked", "skeleton"])
def test_overlaps_print_their_control_and_reach_the_graph(home: Path, kind: str) -> None:
    found = answer(home, "overlaps", "--kind", kind)
    assert found["n_overlaps"] > 0
    assert all(score["controls"] for score in found["scores"])
    with Home(home) as opened:
        question = "MATCH (o:Overlap)-[:IN]->(c:Chain) WHERE o.kind = $kind RETURN count(o) AS n"
        assert opened.cypher(question, {"kind": kind}).rows[0][0] > 0
    question = "MATCH (o:Overlap) WHERE o.kind = $kind RETURN o.parameters AS options, count(o) AS n ORDER BY n DESC"
    longer = ("--min-steps", "4") if kind == "skeleton" else ("--min-tokens", "20")
    for _ in range(2):
        again = answer(home, "overlaps", "--kind", kind, *longer)
        assert again["n_overlaps"] > 0
        with Home(home) as opened:
            # those of the same options are replaced, those of other options and kinds stay
            counts = [row[1] for row in opened.cypher(question, {"kind": kind}).rows]
            assert counts == [found["n_overlaps"], again["n_overlaps"]]
        # what a query shows is what was written last
        shown = json.loads(
            run(home, "query", "overlaps-top", "-p", f"kind={kind}", "--json", "--limit", "10000").stdout
        )
        assert len(shown) == again["n_overlaps"]
    table = run(home, "overlaps", "--kind", kind, "--no-graph")
    assert "trails export" not in table.stdout  # there is no node to select by
    assert table.exit_code == 0
    assert "control" in table.stdout


@pytest.mark.slow
def test_overlaps_between_two_chains(home: Path) -> None:
    one, two = ids(home)[:2]
    found = answer(home, "overlaps", "--between", one, two, "--no-graph")
    assert 0 < found["n_overlaps"] <= answer(home, "overlaps", "--no-graph")["n_overlaps"]


@pytest.mark.slow
def test_the_map_reaches_the_graph(home: Path) -> None:
    found = answer(home, "map", "--k", "3")
    assert found["n_shared_states"] > 0
    assert {score["name"] for score in found["scores"]} == {"fitness", "branching perplexity", "walk is real"}
    with Home(home) as opened:
        assert opened.cypher("MATCH (s:State) RETURN count(s) AS n").rows[0][0] == found["n_shared_states"]
        assert opened.cypher("MATCH (:Token)-[a:AT]->(:State) RETURN count(a) AS n").rows[0][0] > 0
    assert run(home, "map", "--no-graph").exit_code == 0


@pytest.mark.slow
def test_json_has_every_row_unless_a_limit_is_given_as_the_page_says(home: Path, tmp_path: Path) -> None:
    whole = answer(home, "map", "--no-graph", "--details")
    assert len(whole["states"]) > 10
    assert "cut" not in whole
    cut = answer(home, "map", "--no-graph", "--limit", "1")
    assert len(cut["states"]) == 1
    assert cut["cut"]["states"] == len(whole["states"])
    said = run(home, "map", "--no-graph", "--html", tmp_path / "map.html").stderr
    left, whole_count = re.search(r"([\d,]+) of ([\d,]+) rows of states left out; --json has all.", said).groups()  # type: ignore[union-attr]
    assert int(whole_count.replace(",", "")) == len(whole["states"]) > int(left.replace(",", ""))


@pytest.mark.slow
def test_gaps_without_and_with_calibration(home: Path) -> None:
    before = answer(home, "gaps", "--limit", "3")
    assert {score["name"] for score in before["calibration"]["scores"]} >= {"ungrounded", "no model"}
    assert all(seam["surprisal_excess"] is None for seam in before["seams"])
    calibrated = answer(home, "gaps", "--calibrate", "--model", "uniform", "--limit", "3")
    names = {score["name"] for score in calibrated["calibration"]["scores"]}
    assert {"all", "model's own share"} <= names
    kept = answer(home, "gaps", "--limit", "3")
    assert kept["calibration"] == calibrated["calibration"]  # the run keeps it
    with Home(home) as opened:
        rows = opened.cypher(
            "MATCH (g:Gap)-[:BEFORE]->(s:Step) RETURN g.control_auc, g.baseline_auc, g.step, s.index"
        ).rows
    assert rows
    assert all(auc is not None and base is not None and step == index for auc, base, step, index in rows)
    removed = calibrated["calibration"]["removed"]
    assert len(removed) == calibrated["calibration"]["n_chains"]
    for score in calibrated["calibration"]["scores"]:
        if score["unit"] == "AUC within the chain":
            assert sum(each["auc"][score["name"]] for each in removed) / len(removed) == pytest.approx(score["value"])
    one = ids(home)[0]
    assert {seam["chain"] for seam in answer(home, "gaps", "--chain", one)["seams"]} == {one}
    assert "Ranked without a model" not in run(home, "gaps", "--limit", "2").stderr


def test_too_few_chains_rank_nothing_and_nothing_says_that_they_do(tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text("If it rains, then it is wet. It rains. So it is wet. But why?\n")
    ingest([tmp_path / "few.txt"], load_settings(home=tmp_path / "home", model="uniform", store="embedded"))
    told = run(tmp_path / "home", "gaps")
    assert (
        "no seam can be ranked: 1 of 1 chain has four steps or more, a calibration needs 20: ingest more" in told.stdout
    )
    assert "Ranked" not in told.stderr


@pytest.mark.slow
def test_gaps_say_when_the_graph_gets_none(home: Path, tmp_path: Path) -> None:
    """A small home has no score that could be trusted, so the pictures of gaps stay empty: the command says so, and which."""
    settings = load_settings(home=tmp_path / "home", model="uniform", store="embedded")
    file = chains(tmp_path / "few.jsonl", 19)
    ingest([file], settings, IngestOptions(), make_scorer=lambda: open_scorer("uniform"))
    told = "Nothing was written to the graph: gap-graph, gaps-top and gaps-of-chain"
    for more in ((), ("--json",), ("--chain", "#1")):
        said = run(settings.home, "gaps", *more)
        assert said.exit_code == 0
        assert told in said.stderr, more
        assert "Ranked without a model" not in said.stderr
    both = run(settings.home, "gaps").output
    assert both.index("no seam can be ranked") < both.index(told), "the verdict comes first"
    assert told not in run(settings.home, "gaps", "--no-graph").stderr
    assert told not in run(home, "gaps").stderr
    empty = run(settings.home, "query", "gap-graph")
    assert "a home needs 20 chains with four steps or more" in empty.stderr


@pytest.mark.slow
def test_bridge_is_rescored(home: Path) -> None:
    one, two = ids(home)[:2]
    found = answer(home, "bridge", f"{one}:0", f"{two}:2", "--model", "uniform", "--splices", "2", "--budget", "9")
    (score, _) = found["minimax"]["scores"]
    assert score["value"] == pytest.approx(5.545, abs=1e-3)  # ln 256 everywhere
    assert {control["name"] for control in score["controls"]} >= {
        "claimed by the path",
        "goal directly after the start",
    }
    assert found["fewest"]["keeps_budget"] is True
    shown = run(home, "bridge", one, two, "--model", "uniform", "--splices", "1")
    assert shown.exit_code == 0, shown.output


@pytest.mark.slow
def test_capture_of_a_text_and_of_a_file(home: Path, tmp_path: Path) -> None:
    text = "But she gives 8 away, so 4000-8=3992 coins are left. Therefore Ann keeps coins."
    found = answer(home, "capture", text, "--model", "uniform")
    assert found["trail"] in ids(home)
    assert {score["name"] for score in found["scores"]} == {"caught", "fitness", "votes for the trail"}
    file = tmp_path / "text.txt"
    file.write_text(text, encoding="utf-8")
    assert answer(home, "capture", str(file), "--model", "uniform") == found
    file.write_bytes(b"wet\xff")
    with pytest.raises(InputError, match=r"not text in UTF-8 \(byte 3\)"):
        text_or_file(str(file))
    assert run(home, "capture", text, "--model", "uniform").exit_code == 0


@pytest.mark.slow
def test_a_chain_of_the_home_is_left_out_of_the_map_for_a_text_and_for_a_file(home: Path, tmp_path: Path) -> None:
    with Home(home) as opened:
        text = next(iter(opened.traces())).chain.text
    file, many = tmp_path / "text.txt", tmp_path / "texts.jsonl"
    file.write_text(f"{text}\n", encoding="utf-8")
    many.write_text(json.dumps({"text": text}) + "\n", encoding="utf-8")
    one, alone, row = (answer(home, "capture", given, "--model", "uniform") for given in (text, str(file), str(many)))
    assert "1 chain of the home is this text, and left out of the map" in one["notes"]
    assert alone == one
    assert one["n_chains"] == 29
    assert row["notes"] == ["chains of the home that equal a text were left out of its map: 1 of 1 text"]
    (score,) = [s for s in one["scores"] if s["name"] == "caught"]
    assert row["texts"][0]["share"] == score["value"]


@pytest.mark.slow
def test_capture_of_a_file_of_texts_gives_a_row_each_and_a_summary(home: Path, tmp_path: Path) -> None:
    known = "But she gives 8 away, so 4000-8=3992 coins are left. Therefore Ann keeps coins."
    texts = [known, "short", "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich."]
    file = tmp_path / "answers.jsonl"
    file.write_text(
        "".join(json.dumps({"id": f"t{n}", "text": t}) + "\n" for n, t in enumerate(texts)), encoding="utf-8"
    )
    found = answer(home, "capture", str(file), "--model", "uniform")
    assert (found["n_texts"], found["n_judged"], found["n_caught"]) == (3, 2, 1)
    assert found["verdict"] == "1 of 2 texts is caught beyond chance; 1 of 3 could not be judged"
    rows = found["texts"]
    assert [row["text"] for row in rows] == [f"answers.jsonl:t{n}" for n in range(3)]
    assert [row["caught"] for row in rows] == [True, None, False]
    one = answer(home, "capture", known, "--model", "uniform")
    (score,) = [s for s in one["scores"] if s["name"] == "caught"]
    assert rows[0]["share"] == score["value"]
    assert rows[0]["verdict"] == one["verdict"]
    assert one["verdict"].startswith("caught: yes, ")
    assert "not beyond chance (at most " in rows[2]["verdict"]
    assert one["entry"]["text"] in one["entry"]["around"]
    assert one["entry"]["text"].strip() in one["entry"]["trail"]
    printed = run(home, "capture", str(file), "--model", "uniform")
    assert printed.exit_code == 0, printed.output
    assert printed.stdout.startswith(found["verdict"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("overlaps", "--no-graph"),
        ("map", "--no-graph"),
        ("gaps", "--no-graph"),
        ("bridge", "CHAIN:0", "CHAIN:1", "--model", "uniform"),
    ],
)
def test_every_analysis_begins_with_its_verdict(home: Path, arguments: tuple[str, ...]) -> None:
    given = [argument.replace("CHAIN", ids(home)[0]) for argument in arguments]
    found = answer(home, *given)
    printed = run(home, *given)
    assert printed.stdout.splitlines()[0] == found["verdict"]
    assert f"--home {home}" in printed.stdout or not found["commands"]


@pytest.mark.slow
def test_the_line_to_drop_an_overlap_leaves_one_chain_that_has_it(home: Path) -> None:
    found = answer(home, "overlaps")
    drop = next(c["run"] for c in found["commands"] if c["does"].startswith("drop it"))
    first = next(row for row in found["overlaps"] if not row["nested"])
    with Home(home) as opened:
        left = opened.select(drop.split('"')[1])
        assert left.chains is not None
        assert len(left.chains) == len(ids(home)) - first["n_chains"] + 1


@pytest.mark.slow
def test_python_writes_to_the_graph_as_the_shell_does(home: Path) -> None:
    with Home(home) as opened:
        clear_results(opened.graph, opened.shards.identity().id)
        opened.map(write=False)
        opened.gaps(write=False)
        opened.overlaps(write=False)
        assert not {"State", "Gap", "Overlap"} & set(opened.graph.counts())
        opened.map()
        opened.gaps()
        opened.overlaps()
        assert {"State", "Gap", "Overlap"} <= set(opened.graph.counts())
        with pytest.raises(UsageError, match="exact, masked, near, skeleton"):
            opened.overlaps("foo")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("overlaps", "--kind", "near"), "--states"),
        (("drift", "CHAIN"), "layers"),
        (("gaps", "--chain", "nothing"), "no chain fits"),
        (("overlaps", "--run", "rnothing"), "rnothing"),
        (("bridge", "CHAIN:99", "CHAIN:1", "--model", "uniform"), "steps 0 to"),
        (("capture", "short", "--model", "uniform"), "8 or more"),
        (("capture", "not/there.txt", "--model", "uniform"), "there is no file not/there.txt"),
    ],
)
def test_bad_input_says_what_to_type(home: Path, arguments: tuple[str, ...], says: str) -> None:
    one = ids(home)[0]
    result = run(home, *(argument.replace("CHAIN", one) for argument in arguments))
    assert isinstance(result.exception, TrailsError), result.exception
    assert says in str(result.exception)


def test_the_program_prints_an_error_without_a_traceback(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["trails", "overlaps", "--kind", "near", "--home", str(home)])
    with pytest.raises(SystemExit) as ended:
        program()
    assert ended.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_new_analysis_is_a_file_and_a_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ANALYSES, "lengths", "tests.analyses.toy:lengths")
    found = answer(home, "lengths", "--least", "20", "--limit", "3")
    assert found["n_chains"] == 30
    assert len(found["chains"]) == 3
    assert found["scores"][0]["controls"][0]["name"] == "Poisson lengths"
    printed = run(home, "lengths", "--unit", "steps")
    assert printed.exit_code == 0, printed.output
    assert printed.stdout.startswith("chains differ in length no more than random ones\n")  # five steps each
    described = run(home, "lengths", "--help").output
    assert "How long chains are." in described
    assert "Shortest chain to count." in described
    assert "[tokens|steps]" in described
    with Home(home) as opened:
        result = opened.analyse("lengths", least=20)
        assert result.to_arrow().num_rows == 30
        assert "Poisson lengths" in result._repr_html_()
        with pytest.raises(UsageError, match="analysis 'widths'.*map, lengths"):
            opened.analyse("widths")


def test_a_table_that_is_cut_says_of_how_many(capsys: pytest.CaptureFixture[str]) -> None:
    table = pa.table({"n": list(range(12))})
    for limit, told in ((10, "rows: the first 10 of 12; more with --limit"), (12, ""), (None, "")):
        print_report(Report("odd", "a verdict", tables=(ReportTable("rows", table),)), limit=limit)
        assert capsys.readouterr().err.strip() == told
