"""trails stellator: every subcommand on a home, and what it refuses."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from trails.cli import cli
from trails.errors import InputError, TrailsError, UsageError
from trails.stellator.faults import StellatorError

CHAINS = [
    {
        "id": "one",
        "question": "Is it?",
        "chain": "If it rains then the grass is wet. But the grass is dry. Therefore no rain.",
    },
    {"id": "two", "question": "И?", "chain": "Если идёт дождь, то трава мокрая. Но трава сухая. Значит, дождя нет."},
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two chains, measured by the uniform scorer."""
    folder = tmp_path_factory.mktemp("stellator")
    source = folder / "chains.jsonl"
    source.write_text("\n".join(json.dumps(chain, ensure_ascii=False) for chain in CHAINS), encoding="utf-8")
    run("ingest", str(source), "--model", "uniform", "--home", str(folder / "home"))
    return folder / "home"


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, words, catch_exceptions=False)


@pytest.mark.slow
def test_init_check_format_explain_compile(home: Path, tmp_path: Path) -> None:
    for russian in (False, True):
        file = tmp_path / f"{russian}.stellator"
        run("stellator", "init", str(file), *(["--russian"] if russian else []))
        assert f"{file}: 1 block, 7 lines, no error" in run("stellator", "check", str(file), "--home", str(home)).output
        before = file.read_text("utf-8")
        run("stellator", "format", str(file), "--write")
        again = run("stellator", "format", str(file)).output
        assert again == file.read_text("utf-8") != ""
        assert again.count("#") == before.count("#")
        told = run("stellator", "explain", str(file), "--home", str(home)).output
        assert "percentiles are those of run" in told
        assert "$entropy = 5.545" in told  # every token of the uniform scorer has ln 256 nats
        (found,) = json.loads(run("stellator", "compile", str(file), "--home", str(home), "--json").output)
        assert found["parameters"]["step_role"] == ["BUT", "HOWEVER"]
        assert found["annotations"] == {
            "order": "rhythm:3", "layers": "11-20", "dampen": 0.1, "anchor": "значит" if russian else "therefore"
        }  # fmt: skip
        assert found["returns"] == "ids of steps"


def test_a_zone_of_the_home_replaces_that_of_trails(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.stellator"
    file.write_text('[ZONE: unstable & mine]\nTOKEN → "rain"', encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.stellator:1:19: there is no zone 'mine'.*zones\.toml"):
        run("stellator", "compile", str(file), "--home", str(home))
    zones = tmp_path / "zones.toml"
    zones.write_text('[mine]\nexpression = "role = BUT | unstable"\n[unstable]\nexpression = "rank > 3"\n', "utf-8")
    (found,) = json.loads(
        run("stellator", "compile", str(file), "--home", str(home), "--zones", str(zones), "--json").output
    )
    assert "r.rank > $rank AND (s.role IN $role OR r.rank > $rank)" in found["cypher"]
    zones.write_text('[mine]\nexpression = "unstable"\n[unstable]\nexpression = "NOT mine"\n', "utf-8")
    with pytest.raises(InputError, match="in a circle: unstable → mine → unstable"):
        run("stellator", "check", str(file), "--home", str(home), "--zones", str(zones))
    for leaf, several, told in (
        # each zone names the next one twice: 2 to the 30th comparisons written out, or none at all
        ("rank > 3", " & ", "has 512 comparisons"),
        ("all", " & ", "no error"),
        ("rank > 3", "", "name each other 40 deep"),
        ("all", "", "name each other 40 deep"),
    ):
        levels = 30 if several else 1_000
        names = [*(f"z{i}" for i in range(levels)), leaf]
        lines = [f'[{a}]\nexpression = "{several.join((b, b)) if several else b}"\n' for a, b in pairwise(names)]
        zones.write_text('[mine]\nexpression = "z0"\n' + "".join(lines), encoding="utf-8")
        arguments = ["stellator", "check", str(file), "--home", str(home), "--zones", str(zones)]
        if told == "no error":
            assert told in run(*arguments).output
        else:
            with pytest.raises(InputError, match=told):
                run(*arguments)
    zones.write_text("mine = " + "[" * 20_000 + "]" * 20_000, encoding="utf-8")
    with pytest.raises(InputError, match="nested too deeply"):
        run(*arguments)
    zones.write_text("#" * 2_000_001, encoding="utf-8")
    with pytest.raises(InputError, match="larger than 2,000,000 bytes"):
        run(*arguments)
    zones.write_text(
        '[mine]\nexpression = "entropy >"\n[other]\nexpression = """role = BUT |\nrank > 90q"""\n'
        '[third]\nexpression = """role = BUT |\nrank > q90"""\n',
        "utf-8",
    )
    with pytest.raises(InputError) as raised:
        run("stellator", "check", str(file), "--home", str(home), "--zones", str(zones))
    one, two = raised.value.lines
    assert one.startswith(f"{zones}: zone 'mine', column 10 of its expression: ")
    assert two == f"{zones}: zone 'other', column 23 of its expression: 90q is no percentile. Write q90."
    zones.write_text("[mine\n", "utf-8")
    with pytest.raises(InputError, match="not TOML"):
        run("stellator", "check", str(file), "--home", str(home), "--zones", str(zones))


@pytest.mark.parametrize(
    ("zone", "words"),
    [
        ("entropi > 1", "1:8: 'entropi' is nothing that is measured or known. Did you mean entropy?"),
        ("entropy > 5 %", "entropy is measured in nats, % was given. It takes nats or bits"),
        ("attention_shift > 1 nats", "It takes %"),
        ("role = BAT", "role 'BAT' does not exist. Did you mean BUT?"),
        ("overlap = total", "overlap 'total' does not exist"),
        ("role > BUT", "role is a name. Write role = NAME"),
        ("entropy = many", "entropy is a number"),
        ("entropy > q900", "q900 is no percentile. Write entropy > q90: from q0 to q100."),
        ("entropy > p90", "p90 is no percentile"),
        ("entropy > 90 %", "or a percentile: entropy > q90."),
        ("gap > q90", "Write gap > 0.9"),
        ("gap > 2", "gap lies between 0 and 1"),
        ("entropy > 1 & attention_sink > 150 %", "attention_sink lies between 0 and 1"),
    ],
)
def test_check_refuses_what_means_nothing(tmp_path: Path, zone: str, words: str) -> None:
    file = tmp_path / "b.stellator"
    file.write_text(f"[ZONE: {zone}]\n", encoding="utf-8")
    with pytest.raises(InputError) as raised:
        run("stellator", "check", str(file), "--home", str(tmp_path))
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[ZONE: all]\nSTEP → BUT\n\n[ZONE: attention_entropy > q90]", "4:8: attention_entropy was asked for, and run"),
        ("[ZONE: NOT (hidden_shift > 0.1)]", "1:13: hidden_shift was asked for, and run"),
        ("[ZONE: surprisal > 1 | gap > 0.9]", "1:24: gap was asked for, and the graph holds no gap of run"),
        ("# one\n[ZONE: unstable & mine]", "2:19: there is no zone 'mine'"),
        ("[ZONE: far]", "1:8: in zone 'far' of {zones}: attention_shift was asked for, and run"),
        (f"[ZONE: {' | '.join(['rank > 1'] * 401)}]", "1:2: the zone has 401 comparisons"),
        ("[ZONE: wrong]", "1:8: in zone 'wrong' of {zones}: 'entropi' is nothing that is measured"),
        ("[ZONE: deep]", "1:8: in zone 'wrong' of {zones}: 'entropi'"),
        ("[ZONE: missing]", "there is no zone 'nowhere' (named in zone 'missing' of {zones})"),
        ("[ZONE: round]", "1:8: zones of {zones} name each other in a circle"),
        ("[ZONE: all]\nSTEP → BUT\nCHAIN → nowhere", "3:1: chain 'nowhere' was asked for, no chain fits"),
        ("[ZONE: all]\nNOT CHAIN → nowhere", "2:1: chain 'nowhere' was asked for"),
        (
            '[ZONE: all]\nSELECT → "roles:BAT"',
            "2:1: selection 'roles:BAT': role 'BAT' does not exist. Did you mean BUT?",
        ),
        (
            "[ZONE: effect = collapse]",
            "1:8: effect 'collapse' does not exist. Did you mean logit-collapse?",
        ),
    ],
)
def test_every_refusal_names_the_line_of_the_block(home: Path, tmp_path: Path, text: str, words: str) -> None:
    file, declared = tmp_path / "b.stellator", tmp_path / "zones.toml"
    file.write_text(text, encoding="utf-8")
    declared.write_text(
        '[far]\nexpression = "attention_shift > q90"\n[wrong]\nexpression = "rank > 1 & entropi > 2"\n'
        '[deep]\nexpression = "wrong | smooth"\n[missing]\nexpression = "nowhere"\n'
        '[round]\nexpression = "NOT round"\n',
        "utf-8",
    )
    with pytest.raises(TrailsError) as raised:
        run("stellator", "compile", str(file), "--home", str(home), "--zones", str(declared))
    told = str(raised.value)
    assert re.match(rf"{re.escape(str(file))}:\d+:\d+: ", told), told
    assert words.format(zones=declared) in told


FAULTY = """[ZONE: entropi > 1 & role = BAT]
STEP → BAT
[ZONE: nowhere & mine]
DRIFT → activates atention sweep
[ZONE: mine | gap > q90]
TOKEN → "x
"""
FAULTS = ["1:8", "1:22", "2:8", "3:8", "3:18", "4:19", "5:15", "6:9"]


def test_every_command_tells_all_faults_of_a_file(home: Path, tmp_path: Path) -> None:
    file, zones = tmp_path / "f.stellator", tmp_path / "zones.toml"
    file.write_text(FAULTY, encoding="utf-8")
    zones.write_text('[mine]\nexpression = "rank = many"\n', "utf-8")
    own = ["--home", str(home)]
    told = []
    for words in (
        ["stellator", "check", str(file), "--zones", str(zones), *own],
        ["stellator", "explain", str(file), "--zones", str(zones), *own],
        ["stellator", "compile", str(file), "--zones", str(zones), *own],
        ["stellator", "run", str(file), "--zones", str(zones), *own],
    ):
        with pytest.raises(StellatorError) as raised:
            run(*words)
        assert raised.value.exit_code == 3
        told.append(raised.value.lines)
    assert set(told) == {told[0]}
    assert [line.removeprefix(f"{file}:").rpartition(": ")[0][:4].rstrip(":") for line in told[0]] == FAULTS
    assert sum("in zone 'mine'" in line for line in told[0]) == 1, "what a zone declares wrongly is told once"
    for words in (
        ["export", "--stellator", str(file), "--format", "trails", "-o", str(tmp_path / "rows.parquet"), *own],
        ["diff", "r0", "r1", "--stellator", str(file), *own],
    ):
        with pytest.raises(StellatorError) as raised:
            run(*words)
        assert len(raised.value.faults) == 9
    answer = run("stellator", "check", str(file), "--zones", str(zones), "--json", *own)
    assert answer.exit_code == 3
    record = json.loads(answer.output)
    assert record["file"] == str(file)
    assert [f"{fault['line']}:{fault['column']}" for fault in record["faults"]] == FAULTS
    assert all(fault["message"] and fault["hint"] for fault in record["faults"])
    file.write_text("[ZONE: all]", encoding="utf-8")
    assert json.loads(run("stellator", "check", str(file), "--json", *own).output)["faults"] == []


def test_what_the_home_lacks_is_told_at_once_when_the_file_is_sound(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "h.stellator"
    file.write_text(
        '[ZONE: attention_entropy > 1 & gap > 0.5]\nCHAIN → nowhere, "x", never\n'
        '[ZONE: all]\nNOT CHAIN → elsewhere\nSELECT → "MATCH (c:Chain) WHRE c RETURN c"',
        encoding="utf-8",
    )
    with pytest.raises(StellatorError) as raised:
        run("stellator", "compile", str(file), "--home", str(home))
    told = [line.removeprefix(f"{file}:").split(":")[:2] for line in raised.value.lines]
    assert [":".join(place) for place in told] == ["1:8", "1:32", "2:1", "2:1", "4:1", "5:1"]
    assert raised.value.exit_code == 3
    file.write_text("[ZONE: all]\nCHAIN → nowhere", encoding="utf-8")
    with pytest.raises(UsageError, match="nowhere") as one:
        run("stellator", "compile", str(file), "--home", str(home))
    assert one.value.exit_code == 2, "a single one keeps its kind"


@pytest.mark.parametrize(("columns", "most"), [("60", 26), ("80", 26), ("140", 14)])
def test_the_verdicts_are_short_and_have_no_empty_field_at_any_width(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: str, most: int
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    file = tmp_path / "w.stellator"
    file.write_text(
        "[ЗОНА: энтропия > q1 | роль = НО]\nИМЯ → «повороты»\nШАГ → НО, ОДНАКО\nДРЕЙФ → вызывает разброс внимания на слое 17\n"
        "ЯКОРЬ → «значит»\nГРАДИЕНТ ГАСИТЬ → 0.1\nПОРЯДОК → ритм 3\nСЛОИ → 11-20\n",
        encoding="utf-8",
    )
    done = run("stellator", "run", str(file), "--no-model", "--home", str(home))
    lines = done.stdout.splitlines()
    assert len(lines) <= most, done.stdout
    table = done.stdout.partition("one verdict a line")[2].partition("write the rows")[0]
    assert "training" not in table, "what is not measured has no row of empty fields"
    assert not [line for line in table.splitlines() if re.fullmatch(r"[\w%, ]*\w  +", line)], "no field is empty"
    assert "ШАГ → НО, ОДНАКО" in table
    assert (
        "changes training, nothing of it is measured here: ГРАДИЕНТ ГАСИТЬ → обратный проход ~0.1; ПОРЯДОК → ритм 3; "
        "СЛОИ → 11-20\n"
    ) in done.stderr
    record = json.loads(run("stellator", "run", str(file), "--no-model", "--home", str(home), "--json").stdout)
    assert [line["verdict"] for line in record["повороты"]["lines"]][-3:] == ["training"] * 3, (
        "programs have every line"
    )
    told = run("stellator", "explain", str(file), "--home", str(home)).output
    file.write_text('[ZONE: all]\nTOKEN → "nowhere"', encoding="utf-8")
    empty = run("stellator", "run", str(file), "--home", str(home)).stdout
    assert re.search(r"(?m)^┃ line +┃ verdict ┃$", empty), "columns that are empty in every row go"
    assert "[ЗОНА: энтропия > q1 | роль = НО]" in told


def test_masked_texts_stand_for_all_that_differ_in_numbers_and_names(tmp_path: Path) -> None:
    source = tmp_path / "chains.jsonl"
    rows = [
        "Tom has 3 apples. Then he eats 1.",
        "Anna has 12 apples. Then she eats 1.",
        "The dog has 4 apples. Then it eats.",
        "Tom has 3 pears.",
    ]
    source.write_text("\n".join(json.dumps({"id": str(n), "chain": row}) for n, row in enumerate(rows)), "utf-8")
    home = str(tmp_path / "home")
    run("ingest", str(source), "--model", "uniform", "--home", home)
    file = tmp_path / "m.stellator"

    def parameters(text: str) -> dict[str, object]:
        file.write_text(f"[ZONE: all]\n{text}", encoding="utf-8")
        (found,) = json.loads(run("stellator", "compile", str(file), "--home", home, "--json").output)
        parameters: dict[str, object] = found["parameters"]
        return parameters

    assert parameters('TOKEN → masked "Tom has 7 apples"')["token"] == ["Anna has 12 apples", "Tom has 3 apples"]
    assert parameters('TOKEN → masked "has 7 apples", "pears"')["token"] == [
        "has 12 apples", "has 3 apples", "has 4 apples", "pears"
    ]  # fmt: skip
    assert parameters('STEP → masked "eats 5"')["step_text"] == ["eats 1"]
    assert parameters('NOT CHAIN → masked "Tom has 9 pears"')["chain_text"] == ["Tom has 3 pears"]
    assert parameters('TOKEN → "Tom has 7 apples"')["token"] == ["Tom has 7 apples"]
    report = json.loads(run("stellator", "run", str(file), "--home", home, "--json").output)
    assert report["block 1"]["n_selected"] == 0
    file.write_text('[ZONE: all]\nCHAIN → masked "Tom has 7 apples"', encoding="utf-8")
    report = json.loads(run("stellator", "run", str(file), "--home", home, "--json").output)
    assert report["block 1"]["n_selected"] == 2


@pytest.mark.slow
def test_a_selection_of_export_is_a_line(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "s.stellator"

    def selected(text: str) -> dict[str, object]:
        file.write_text(f"[ZONE: all]\n{text}", encoding="utf-8")
        report: dict[str, dict[str, object]] = json.loads(
            run("stellator", "run", str(file), "--home", str(home), "--json").output
        )
        return report["block 1"]

    turns = selected("STEP → BUT")["selected"]
    assert selected('SELECT → "roles:BUT"')["selected"] == turns
    assert selected('SELECT → "roles:НО"')["selected"] == turns, "roles have their Russian names in selections, too"
    both = selected('SELECT → "roles:BUT>THEREFORE"\nSTEP → BUT')
    assert both["selected"] == turns
    whole = selected('SELECT → "all"')
    assert (whole["kind"], whole["n_selected"]) == ("chain", 2)
    tokens = selected('SELECT → "MATCH (t:Token) WHERE t.position < 2 RETURN t"')
    assert (tokens["kind"], tokens["n_selected"]) == ("token", 4)
    assert selected('SELECT → "chain:one"\nTOKEN → "Но"')["n_selected"] == 0


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="trails stellator init"):
        run("stellator", "check", str(tmp_path / "none.stellator"))
    file = tmp_path / "binary.stellator"
    file.write_bytes(b"[ZONE: \xff]")
    with pytest.raises(InputError, match=r"binary\.stellator:1:8: not text in UTF-8 \(byte 7\)"):
        run("stellator", "check", str(file))
    for encoding, name in (("cp1251", "CP1251"), ("utf-16", "UTF-16")):
        file.write_bytes("[ЗОНА: нестабильная]\nТОКЕН → «дождь»\n".replace("→", "->").encode(encoding))
        with pytest.raises(
            InputError, match=rf"1:\d: not text .* looks like {name}. Convert it: iconv -f {name} -t UTF-8 "
        ):
            run("stellator", "check", str(file))
    with pytest.raises(UsageError, match="exists"):
        run("stellator", "init", str(file))


def test_format_keeps_links_and_modes_and_says_what_it_wrote(tmp_path: Path) -> None:
    file, link = tmp_path / "a.stellator", tmp_path / "b.stellator"
    file.write_text("[zone: all]\nstep -> BUT\n", encoding="utf-8")
    file.chmod(0o600)
    link.symlink_to(file)
    done = CliRunner().invoke(cli, ["stellator", "format", str(link), "--write"], catch_exceptions=False)
    assert "written" in done.stderr
    assert link.is_symlink()
    assert "STEP → BUT" in file.read_text(encoding="utf-8")
    assert file.stat().st_mode & 0o777 == 0o600
