"""Reading and printing: the mission's block, both languages, identity, errors with their place, and input of any kind."""

from __future__ import annotations

import re
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.stellator.strategies import programs

from trails.errors import InputError
from trails.stellator import example, read_file
from trails.stellator.compiling import compile_block
from trails.stellator.faults import StellatorError
from trails.stellator.language import (
    Anchor,
    Angle,
    Block,
    Dampen,
    Drift,
    Phase,
    Program,
    Select,
    Text,
    ZoneName,
    printed,
)
from trails.stellator.parsing import MAX_DEPTH, parse
from trails.stellator.words import WORDS
from trails.stellator.zones import zones

EXAMPLES = Path(__file__).parents[2] / "examples"
MISSION = """[ZONE:unstable]
TOKEN → "противоречие"
DRIFT → activates attention sweep on layer 17
ANCHOR → "теория"
PHASE → +π/2
GRADIENT DAMPEN → backward pass ~0.1
"""
SAID = (
    Select("TOKEN", (Text("противоречие"),)),
    Drift("attention_entropy", True, (17,)),
    Anchor("теория"),
    Phase(Angle("pi", 1, 2)),
    Dampen(0.1),
)


def test_the_block_of_the_mission_says_what_it_says() -> None:
    (block,) = parse(MISSION).blocks
    assert block.zone == ZoneName("unstable")
    assert tuple(line.content for line in block.lines) == SAID
    assert [line.place.line for line in block.lines] == [2, 3, 4, 5, 6]


def test_russian_ascii_case_and_composed_letters_say_the_same() -> None:
    russian = """[зона:unstable]
    ТОКЕН -> «противоречие»
    Дрейф → вызывает   разброс внимания на слое 17
    якорь → "теори\u044f"
    ФАЗА → pi/2
    градиент  гасить → 0.1"""
    (block,) = parse(russian).blocks
    assert (block.language, tuple(line.content for line in block.lines)) == ("ru", SAID)
    (composed,) = parse('[ZONE: all]\r\ntoken -> "и\u0306"\r\n').blocks  # й in two characters
    assert composed.lines[0].content == Select("TOKEN", (Text("й"),))


def test_every_spelling_of_every_word_is_read() -> None:
    for terminal, both in WORDS.items():
        for spelling in {s for spellings in both for s in spellings}:
            wanted = {
                "ZONE": f"[{spelling}: all]",
                "TOKEN": f'[ZONE: all]\n{spelling} → "x"',
                "DAMPEN": f"[ZONE: all]\n{spelling} → 1",
                "NOT": f'[ZONE: {spelling} all]\n{spelling} STEP → "x"',
                "AND": f"[ZONE: a {spelling} b]",
                "ON_LAYER": f"[ZONE: all]\nDRIFT → attention sweep {spelling} 3",
                "PI": f"[ZONE: all]\nPHASE → 2{spelling}/3",
                "DEGREES": f"[ZONE: all]\nPHASE → 90 {spelling}",
            }.get(terminal)
            if wanted:
                assert parse(wanted).blocks, wanted


def test_a_number_with_an_exponent_may_stand_before_pi() -> None:
    program = parse("[ZONE: all]\nPHASE → 1.5e-137π/2")
    assert parse(printed(program)) == program
    assert "1.5e-137π/2" in printed(program)


@pytest.mark.slow
@given(programs())
@settings(max_examples=150, deadline=None)
def test_what_is_printed_reads_back(program: Program) -> None:
    assert parse(printed(program)) == program


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.stellator")), ids=lambda path: path.name)
def test_examples_are_read_and_keep_their_comments(path: Path) -> None:
    program = read_file(path)
    again = printed(program)
    assert parse(again) == program
    assert len(re.findall(r"(?m)#", again)) == len(re.findall(r"(?m)#", path.read_text("utf-8"))) > 0


@pytest.mark.parametrize("russian", [False, True])
def test_the_written_example_is_canonical(russian: bool) -> None:
    text = example(russian=russian)
    assert printed(parse(text)) == text


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ('[ZONE:unstable]\nTOKN → "x"', "2:1", "Did you mean TOKEN?"),
        ("[ZONE:unstable]\nDRIFT → activates atention sweep", "2:19", "Did you mean attention sweep?"),
        ("[ЗОНА:всё]\nДРЕЙФ → вызывает разбос внимания", "2:18", "Did you mean разброс внимания?"),
        ("[ZONE:unstable\nTOKEN", "1:15", "the line ends too early"),
        ("[ZONE: entropy > ]", "1:18", "a number"),
        ("[ZONE: entropy > 1 > 2]", "1:20", "means nothing here"),
        ("[ZONE: entropy > 1, 2]", "1:8", "takes one value"),
        ("[ZONE:a]\nGRADIENT DAMPEN → backward pass ~zero", "2:34", "a number"),
        ("[ZONE:a]\nGRADIENT DAMPEN → backward pass ~1e30", "2:34", "a factor from 0 to 1; 1e30 was given"),
        ("[ZONE:a]\nPHASE → π ± 400°", "2:1", "could not fail"),
        ("[ZONE:a]\n\nTOKEN → слово", "3:9", 'TOKEN → "слово"'),
        ('[ZONE:a]\nTOKEN → "x', "2:9", 'the text is not closed: " is missing'),
        ('[ZONE:a]\nTOKEN → ""', "2:9", "empty"),
        ('[ZONE:a]\nTOKEN → "\\q"', "2:9", "Write \\\\"),
        ('[ZONE:a]\nTOKEN → "\\ud800"', "2:9", "half of a character"),
        ("[ZONE:a]\nSTEP → BUT, BAT", "2:13", "Did you mean BUT?"),
        ("[ZONE:a]\nLAYERS → 0", "2:10", "Layers count from 1"),
        ("[ZONE:a]\nDRIFT → logit shift on layer 3", "2:30", "no layer"),
        ("[ZONE:a]\nPHASE → π on layers 3,4", "2:21", "one layer"),
        ("[ZONE:a]\nPHASE → π/0", "2:11", "does not exist"),
        ("[ZONE:a]\nPHASE → 3π/2", "2:1", "270 were claimed"),
        ('[ZONE:a]\nSELECT → "all"\nSELECT → "chain:a"', "3:1", "line 2 of this block"),
        ("[ZONE:a]\nVARIANTS → 0", "2:12", "a whole number"),
        ("[ZONE:a]\nVARIANTS → 1.5", "2:12", "a whole number"),
        ("[ZONE:a]\nORDER → rhythm 1", "2:1", "N from 2 to 64"),
        ('[ZONE:a]\nMASK → "surprise<1"', "2:8", "surprisal<X"),
        ("[ZONE:a]\nOBJECTIVE → lm\nOBJECTIVE → dft", "3:1", "line 2 of this block"),
        ('[ZONE:a]\nNAME → "x"\n[ZONE:b]\nNAME → "x"', "4:1", "line 1 already"),
        ('[ZONE:a]\nNAME → "x"\nNAME → "y"', "3:1", "line 2 names this block already"),
        ('[ZONE:a]\nTOKEN → "x"\nNAME → "y"', "3:1", "Put the name below [ZONE: …]"),
        ('[ZONE:a]\nTOKEN → "и\u0306", слово', "2:15", "TOKEN takes texts"),
        ('[ZONE:a]\nTOKEN → "и\u0306" ?', "2:14", "means nothing here"),
        ("'x'", "1:1", "means nothing here. Expected: [ZONE: …]."),
        ("", "1:1", "trails stellator init"),
        ("# only a comment", "1:1", "there is no block"),
        ("[ZONE: " + "(" * (MAX_DEPTH + 1) + "a" + ")" * (MAX_DEPTH + 1) + "]", f"1:{8 + MAX_DEPTH}", "nested deeper"),
    ],
)
def test_an_error_names_its_place_and_what_could_be_meant(text: str, place: str, words: str) -> None:
    with pytest.raises(InputError) as raised:
        parse(text, "t.stellator")
    assert str(raised.value).startswith(f"t.stellator:{place}: ")
    assert words in str(raised.value)


def places(text: str) -> list[str]:
    """LINE:COLUMN of every fault of a text."""
    try:
        parse(text)
    except StellatorError as error:
        return [f"{fault.line}:{fault.column}" for fault in error.faults]
    return []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        # a block of which the zone is wrong keeps its lines, and a wrong line hides none of the others
        ("[ZONE entropy]\nSTEP → BUT\nSTEP → BAT\n[ZONE: all]\nTOKEN → x\n\n???", ["1:7", "3:8", "5:9", "7:1"]),
        ("ZONE: all]\nSTEP → BUT", ["1:1"]),
        ("[ZNE: all]\nSTEP → BUT\n{ZONE: all}\nSTEP → BUT", ["1:2", "3:1"]),
        # without a block every line would be wrong: it is said once
        ('STEP → BUT\nANCHOR → "x"\nSTEP → BAT', ["1:1", "3:8"]),
        ("```\n[ZONE: all]\nSTEP → BUT", ["1:1"]),
        ("```\nSTEP → BUT", ["1:1"]),
        ("STEP → BAT\nSTEP → BUT\nSTEP => IF", ["1:1", "1:8", "3:6"]),
        # a statement that was broken over lines is wrong where it breaks
        ('[ZONE: all]\nTOKEN → "rain\nfalls"\nSTEP → BAT', ["2:9", "4:8"]),
        ('[ZONE: all]\nTOKEN → "rain\nfalls\nSTEP → BUT', ["2:9", "3:1"]),
        ("[ZONE: entropy > q90\n  & role = BUT]\nSTEP → BUT", ["1:21"]),
        ("[ZONE: all]\nSTEP → BUT,\n  HOWEVER,\n  IF\nTOKEN → x", ["2:12", "5:9"]),
        ("[ZONE: all]\nTOKEN →\n'x'\nSTEP → BUT", ["2:8"]),
        # what is said twice is compared with what could be read
        ('[ZONE: all]\nANCHOR → x\nANCHOR → "y"\nANCHOR → "z"\nANCHOR → "z"', ["2:10", "4:1", "5:1"]),
        ('[ZONE: all\nNAME → "x"\n[ZONE: all]\nNAME → "x"\n[ZONE: all]\nNAME → "x"', ["1:11", "4:1", "6:1"]),
    ],
)
def test_every_fault_is_told_and_none_that_only_follows(text: str, found: list[str]) -> None:
    assert places(text) == found


def test_a_file_of_another_kind_is_read_no_further_than_a_thousand_faults() -> None:
    with pytest.raises(StellatorError) as raised:
        parse("[ZONE: all]\n" + "wrong\n" * 50_000)
    assert (len(raised.value.faults), len(raised.value.lines)) == (1001, 51)
    assert raised.value.lines[-1] == "stellator: 951 more faults; repair these first"
    assert "Is this a file" in raised.value.faults[-1].hint


_WRONG_LINES = (
    'TOKN → "x"', 'TOKEN => "x"', 'TOKEN → "x', "STEP → BAT", "DRIFT → activates loss", "PHASE → 270°", "LAYERS → 0",
    "GRADIENT DAMPEN → ~7", "???", 'ANCHOR → ""', "ТОКЕН → «дождь", "ORDER → rhythm 1", "rain falls", "NAME",
    "ВЕС → удивление", "\t\u00a0STEP → BUT",
)  # fmt: skip
_WRONG_ZONES = ("[ZONE: a >]", "[ZONE a]", "ZONE: all]", "[ZNE: all]", "[ZONE: (a]", "[ЗОНА: a & ]", "[ZONE: a", "[]")


@given(programs(), st.data())
@settings(max_examples=150, deadline=None)
def test_planted_faults_are_named_by_their_lines_and_nothing_else_is(program: Program, data: st.DataObject) -> None:
    lines = printed(program).split("\n")
    statements = [number for number, line in enumerate(lines, start=1) if line.strip() and not line.startswith("#")]
    planted = data.draw(st.lists(st.sampled_from(statements), unique=True).map(sorted))
    for number in planted:
        wrong = _WRONG_ZONES if lines[number - 1].startswith("[") else _WRONG_LINES
        lines[number - 1] = data.draw(st.sampled_from(wrong))
    assert [int(place.partition(":")[0]) for place in places("\n".join(lines))] == planted


@pytest.mark.parametrize(
    ("line", "column", "words"),
    [
        ('TOKEN => "x"', 7, "'=>' is no arrow. Write → or ->."),
        ("STEP = BUT", 6, "'=' is no arrow"),
        ('ANCHOR: "x"', 7, "':' is no arrow"),
        ("CHAIN — gsm8k:17", 7, "'—' is no arrow"),
        ("WEIGHT surprisal", 8, "the arrow is missing. Write WEIGHT → surprisal"),
        ("TOKEN → „rain“", 9, '„ begins no text. Write "rain".'),
        ("TOKEN → 'the rain'  # note", 9, '\' begins no text. Write "the rain".'),
        ('TOKEN → “rain"', 9, '“ ends with ”. Write "rain".'),
        ("ЯКОРЬ → «значит", 9, "the text is not closed: » is missing"),
        ("ANCHOR → so it is  # note", 10, "'so it is' has no quotation marks. Write \"so it is\"."),
        ("ГРАДИЕНТ ГАСИТЬ → 0,1", 20, "0,1 is no number. Write 0.1."),
        ("LAYERS → 11–20", 12, "Write 11-20."),
        ("// a comment", 1, "A comment begins with #."),
        ("STEP → BUT  -- so", 13, "A comment begins with #."),
        ('ТOKEN → "x"', 1, "'ТOKEN' mixes two alphabets: Т is Cyrillic. Did you mean TOKEN?"),
        ('TOKEN\u00a0→ "x"', 6, "the invisible character U+00A0 (NO-BREAK SPACE) stands here. Write a plain space."),
        ('TOKEN →\u200b "x"', 8, "U+200B (ZERO WIDTH SPACE) stands here. Delete it."),
        ("DRIFT → increases attention sweep", 9, "Expected: activates, calms, attention sweep"),
        ("STPE → BUT", 1, "'STPE → BUT' means nothing here. Did you mean STEP?\n"),
        ("ДРЕЙФ → вызывает разбос внимания", 18, "Expected: разброс внимания, сдвиг внимания"),
        ("ВЕС → удивление", 7, "Expected: ровный, неожиданность, энтропия"),
        ("ШАГ → ОДНОКО", 7, "Did you mean ОДНАКО? Roles: ЕСЛИ, ТОГДА"),
        ("[ZONE: entropy q90]", 16, "the sign of the comparison is missing. Write entropy > q90."),
        ("[ZONE: entropy > 90q]", 20, "90q is no percentile. Write q90."),
        ("[ZONE: entropy > 1,5]", 8, "written with a point"),
        ("[ZONE: entropy > 1", 19, "the zone is not closed. Write ] at the end"),
        ("[ZONE: (a | b]", 14, "a bracket ( is not closed. Write ) before ]."),
        ("ZONE: a]", 1, "begins no block. Write [ZONE: …]."),
        ("[ZONE a]", 7, "begins no block. Write [ZONE: …]."),
        ("[unstable]", 2, "begins no block. Write [ZONE: …]."),
        ('{"zone": "a"}', 1, "begins no block. Write [ZONE: …]."),
    ],
)
def test_what_many_get_wrong_is_named_with_what_to_write(line: str, column: int, words: str) -> None:
    before = "[ЗОНА: всё]\n" if re.search("[а-я]", line) else "\n[ZONE: all]\n"
    with pytest.raises(StellatorError) as raised:
        parse(f"{before}{line}\n", "t")
    (fault,) = raised.value.faults
    assert (fault.line, fault.column) == (before.count("\n") + 1, column)
    assert words in f"{fault.told('t')}\n"


_SIGNS = '[]→-><"«»\\&|()π/±~,:# \n\r\t\x00🍎'
_WORDS = ("[ZONE:", "[ZONE:all]\n", "TOKEN", "ТОКЕН", "q90", "NOT", "0.1", "17", "11-20", "entropy", "layer", "и\u0306")
_scraps = st.sampled_from((*_SIGNS, *_WORDS, "GRADIENT DAMPEN", "GRADIENT\u00a0DAMPEN"))


@pytest.mark.slow
@given(st.lists(_scraps | st.characters(), max_size=30).map("".join))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_or_refused_with_its_place(text: str) -> None:
    try:
        program = parse(text)
    except InputError as error:
        placed = all(re.match(r"stellator:\d+:\d+: |stellator: \d+ more", line) for line in error.lines)
        assert placed, error  # noqa: PT017  # either branch is right
    else:
        assert parse(printed(program)) == program


def calls_of(work: Callable[[], object]) -> int:
    """How many functions, of Python and of C, are called."""
    count = 0

    def see(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(see)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def check(text: str) -> None:
    known = zones()
    for name, block in parse(text).named():
        compile_block(name, block, known=known, run="r", quantile=lambda _, percent: percent)


@pytest.mark.slow
@pytest.mark.parametrize(
    "grown",
    [
        lambda n: "".join(f'[ZONE: entropy > {k}]\nTOKEN → "a{k}"\n' for k in range(n)),
        lambda n: "[ZONE: " + " | ".join(f"entropy > {k}" for k in range(n)) + "]",
        lambda n: "[ZONE: all]\nTOKEN → " + ", ".join(f'"t{k}"' for k in range(n)),
        lambda n: "[ZONE: all]\n" + "".join(f'TOKEN → "t{k}"  # note\n# own {k}\n' for k in range(n)),
        lambda n: "[ZONE: all]\n" + "# a comment\n" * n,
    ],
    ids=["blocks", "conditions", "targets", "lines", "comments"],
)
def test_twice_the_text_takes_twice_the_work(grown: Callable[[int], str]) -> None:
    check(grown(10))  # what is made once
    one, two = (calls_of(lambda n=n: check(grown(n))) for n in (200, 400))
    assert two < 2.1 * one
    tracemalloc.start()
    peaks = []
    for n in (200, 400):
        tracemalloc.reset_peak()
        check(grown(n))
        peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    assert peaks[1] < 2.5 * peaks[0]


def test_a_file_that_nobody_wrote_is_refused_before_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "large.stellator"
    with file.open("wb") as handle:
        handle.truncate(6_000_000)

    def refused() -> None:
        with pytest.raises(InputError, match=r"large\.stellator: larger than 2,000,000 bytes\. Split it"):
            read_file(file)

    assert calls_of(refused) < 1000


def test_a_name_of_a_block_or_its_number() -> None:
    blocks = (Block(ZoneName("all"), name="mine"), Block(ZoneName("all")))
    assert [name for name, _ in Program(blocks).named()] == ["mine", "block 2"]
