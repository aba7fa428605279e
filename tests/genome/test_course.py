"""A genome over real chains: the order, the gates, the faults that need a home, and files that are the same byte for byte."""

# ruff: noqa: E501

from __future__ import annotations

import hashlib
import json
import re
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.genome.conftest import EXAMPLE, fill

from trails.errors import UsageError
from trails.export.subgraph import Part
from trails.genome.compile import Parts, export_course, gap_items, role_rows
from trails.genome.course import Course, compile_course
from trails.genome.generate import EXAMPLE as FIRST
from trails.genome.generate import genome_of
from trails.genome.model import load_genome, parse_genome
from trails.genome.shelf import Shelf
from trails.genome.show import course_report
from trails.genome.source import GenomeError
from trails.measure import open_scorer
from trails.measure.base import MeasureOptions
from trails.pipeline import segmented
from trails.pipeline.training import role_files
from trails.pipeline.training import role_rows as role_rows_of
from trails.readers import read
from trails.sample import canonical_path
from trails.store.traces import TraceStore

TWO = """\
genome: 1
name: two
stages:
  - name: first
    sections:
      - name: plain
        books: [{select: "meta:version=plain", take: 30, order: rising}]
  - name: second
    sections:
      - name: reworded
        books: [{select: "meta:version=reworded", take: 40}, {select: "meta:version=joined", take: 10, times: 3}]
"""


def rows_of(folder: Path, name: str = "train.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def example(shelf: Shelf) -> Course:
    genome, document = load_genome(EXAMPLE)
    return compile_course(genome, document, shelf, folder=EXAMPLE.parent)


@pytest.mark.slow
def test_the_example_compiles_and_keeps_its_gates(example: Course, tmp_path: Path) -> None:
    done = export_course(example, "trails", tmp_path / "course")
    rows, course = rows_of(tmp_path / "course"), rows_of(tmp_path / "course", "course.jsonl")
    assert len(rows) == len(course) == len(example) == done.report.counts.rows
    stages = [stage.name for stage in example.genome.stages]
    gate = [stages.index(row["stage"]) for row in rows if not row["rehearsal"]]
    assert gate == sorted(gate)
    assert set(gate) == set(range(5))
    # a row of rehearsal is one that came before, in an earlier stage
    met: list[str] = []
    at = 0
    for row in rows:
        if row["rehearsal"]:
            assert stages.index(row["stage"]) < at
            assert row["chain"] in met
        else:
            at = stages.index(row["stage"])
            met.append(row["chain"])
    for row, said in zip(rows, course, strict=True):
        assert {
            name: row[name] for name in ("order", "chain", "stage", "section", "book", "scene", "role", "rehearsal")
        } == {name: said[name] for name in said if name != "tokens"}
        assert len(row["input_ids"]) == said["tokens"]
    assert done.cut == 0


@pytest.mark.slow
def test_roles_have_files_of_their_own_that_share_no_chain(example: Course, tmp_path: Path) -> None:
    export_course(example, "trails", tmp_path / "course")
    rows = rows_of(tmp_path / "course")
    seen: dict[str, str] = {}
    for role in ("learner", "teacher", "critic", "rewriter"):
        mine = rows_of(tmp_path / "course", f"train.{role}.jsonl")
        assert [row["id"] for row in mine] == [row["id"] for row in rows if row["role"] == role]
        assert mine
        for row in mine:
            assert seen.setdefault(row["chain"], role) == role
    assert sum(map(len, role_rows(example).values())) < len(rows)  # the scenes and answers have no role


@pytest.mark.slow
def test_the_same_genome_and_home_give_the_same_bytes(tmp_path: Path) -> None:
    chains = list(read([canonical_path()]))[:112]
    text = TWO.replace(
        "    sections:\n      - name: reworded",
        '    gap: {between: [plain, reworded], withhold: "meta:topic=kettle"}\n    sections:\n      - name: reworded',
    ).replace("name: two", 'name: two\nroles: {learner: "meta:version=plain"}\nbudget: {rehearsal: 0.1}')
    text = text.replace("take: 30", "take: 8").replace("take: 40", "take: 9").replace("take: 10", "take: 4")

    def digests(home: Path, to: str) -> dict[str, str]:
        genome, document = parse_genome(text, "g.yaml")
        with TraceStore(home) as traces:
            (run,) = traces.runs().values()
            course = compile_course(genome, document, Shelf(traces, run))
            export_course(course, "trails", tmp_path / to)
        files = sorted((tmp_path / to).iterdir())
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    first = digests(fill(tmp_path / "one", chains), "a")
    files = {"course.jsonl", "gaps.jsonl", "genome.yaml", "train.README.md", "train.jsonl", "train.learner.jsonl"}
    assert first.keys() == files  # it has a gap and no scene
    # stored in another order, in other shards
    assert digests(fill(tmp_path / "two", chains[::-1], shard=17), "b") == first


def test_another_seed_is_another_order_of_what_is_drawn(shelf: Shelf, compiled, monkeypatch) -> None:
    drawn = np.random.default_rng(0).permutation(len(shelf)).astype(np.float64)
    monkeypatch.setattr(shelf, "surprisal", drawn)  # those of the uniform scorer are equal
    one, two, again = compiled(TWO), compiled(TWO, seed=1), compiled(TWO)
    assert np.array_equal(one.chain, again.chain)
    assert not np.array_equal(one.chain, two.chain)
    assert np.array_equal(one.chain[:30], two.chain[:30])  # rising draws nothing but ties
    first = one.chain[:30]
    for source in np.unique(shelf.source[first]):  # every source rises by itself
        assert (np.diff(drawn[first[shelf.source[first] == source]]) > 0).all()
    repeated = one.chain[70:]
    assert len(repeated) == 30
    assert np.array_equal(repeated[:10], repeated[10:20])


def test_a_source_is_selected_by_its_name_or_its_whole_name(shelf: Shelf) -> None:
    for name in shelf.sources:
        for text in {name, name.rsplit("/", 1)[-1]}:
            fitting = [i for i, known in enumerate(shelf.sources) if text in (known, known.rsplit("/", 1)[-1])]
            rows, parts = shelf._select(f"source:{text}")
            assert rows.tolist() == [row for row, source in enumerate(shelf.source.tolist()) if source in fitting]
            assert len(rows)
            assert not parts
    assert len(shelf.sources) > 3


def test_skip_and_take_cut_a_source_into_books(compiled) -> None:
    text = TWO.replace(
        '[{select: "meta:version=plain", take: 30, order: rising}]',
        '[{select: "source:gsm8k/train", order: source, take: 25}, {select: "source:gsm8k/train", order: source, skip: 25}]',
    )
    course = compiled(text)
    assert len(set(course.chain[:60].tolist())) == 60
    assert (np.diff(course.chain[:60]) > 0).all()  # in the order of their records, book after book


FAULTS = [
    ("meta:version=plain", "source:nothing", r"g.yaml:7:26; .*select: an empty book: source 'nothing' was asked for, and there is none"),
    ("take: 30", "skip: 500", r"g.yaml:7:17; .*books\[0\]: an empty book: \d+ chains, and 500 are skipped"),
    ('select: "meta:version=plain"', "file: missing.jsonl", r"g.yaml:7:24; .*file: .*missing.jsonl"),
    ("name: two", "name: two\nbudget: {tokens: 10_000_000}", r"tokens: the budget cannot be met: the course holds [\d,]+ of 10,000,000 tokens; write \d+ or less"),
    ("name: two", "name: two\nbudget: {tokens: 600}", r"the budget cannot be met: 600 of [\d,]+ tokens leave book .* without a chain"),
    ("name: two", 'name: two\nroles: {learner: "meta:version=plain", critic: all}', r"g.yaml:3:48; roles.critic: roles overlap: \d+ chains are learner and critic"),
    ("take: 30,", "take: 30, role: critic,", r"NOT A FAULT"),
    ("    sections:\n      - name: reworded", '    initiation: {after: [first], mismatch_first: 900}\n    sections:\n      - name: reworded', r"mismatch_first: 900 rows of mismatch asked for, and the stage holds \d+"),
    ("    sections:\n      - name: reworded", '    gap: {between: [plain, reworded], withhold: "all"}\n    sections:\n      - name: reworded', r"an empty book: gaps withhold every chain of it"),
    ("    sections:\n      - name: reworded", '    gap: {between: [plain, reworded], withhold: "source:gsm8k/train"}\n    sections:\n      - name: reworded', r"withhold: no chain of the course is in this selection"),
    ("    sections:\n      - name: reworded", '    scenes: [{conflict_scene: {level: "botany", trigger: "photosynthesis of ferns", resolution_expected: "light"}}]\n    sections:\n      - name: reworded', r"no chain matches level and trigger"),
    ("    sections:\n      - name: reworded", '    scenes: [{text: "A text. But no.", conflict_scene: {level: "botany", trigger: "ferns", resolution_expected: "light"}}]\n    sections:\n      - name: reworded', r"text: the text of this scene is not measured by run .*; run: trails genome scenes g.yaml -o scenes.jsonl"),
    ("    sections:\n      - name: reworded", '    sections:\n      - name: parts\n        books: [{select: "chain:PART"}]\n      - name: reworded', r"no chain fits"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "said"), FAULTS, ids=[said[:50] for *_, said in FAULTS])
def test_faults_that_need_a_home(compiled, old: str, new: str, said: str) -> None:
    text = TWO.replace(old, new, 1)
    assert text != TWO
    if said == "NOT A FAULT":
        assert Counter(compiled(text).role.tolist())[2] == 30
        return
    with pytest.raises(GenomeError, match=said) as caught:
        compiled(text)
    assert re.match(r"g.yaml:\d+:\d+; ", str(caught.value))


def test_a_book_may_be_a_file_that_was_ingested(packaged: Path, compiled, tmp_path: Path) -> None:
    from trails.sample import path

    lines = path().read_text(encoding="utf-8").splitlines()[:20]
    (tmp_path / "book.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    text = TWO.replace('select: "meta:version=plain"', "file: book.jsonl")
    course = compiled(text, folder=tmp_path)
    assert {course.shelf.id(row) for row in course.chain[:20].tolist()} == {
        chain.id for chain in read([tmp_path / "book.jsonl"])
    }
    extra = '{"source": "x", "source_id": "1", "question": "", "text": "If new, then unmeasured.", "answer": "", "metadata": {}}\n'
    with (tmp_path / "book.jsonl").open("a", encoding="utf-8") as file:
        file.write(extra)
    with pytest.raises(
        GenomeError, match=r"1 of 21 chains of book.jsonl is not measured by run r\w+; run: trails ingest"
    ):
        compiled(text, folder=tmp_path)


def test_a_budget_shortens_every_book_in_proportion(compiled) -> None:
    whole = compiled(TWO)
    total = int(whole.tokens.sum())
    asked = total * 2 // 3
    course = compiled(TWO.replace("name: two", f"name: two\nbudget: {{tokens: {asked}}}"))
    held = int(course.tokens.sum())
    assert 0.9 * asked <= held <= asked
    for number in range(3):
        before = int(whole.tokens[whole.book == number].sum())
        after = int(course.tokens[course.book == number].sum())
        assert after <= before * asked / total
        assert after >= before * asked / total - 3 * int(whole.tokens.max())


def test_mismatch_comes_first(compiled) -> None:
    text = TWO.replace(
        "    sections:\n      - name: reworded",
        "    initiation: {after: [first], mismatch_first: 7}\n    sections:\n      - name: reworded",
    )
    course = compiled(text)
    second = np.flatnonzero(course.stage == 1)
    turn = course.shelf.turn[course.chain[second]]
    assert np.isfinite(turn[:7]).all()
    assert (np.diff(turn[:7]) <= 0).all()
    assert turn[:7].min() >= np.nanmax(turn[7:]) - 1e-9
    assert sorted(course.chain) == sorted(compiled(TWO).chain)


def test_rehearsal_has_its_share_and_is_spread(compiled) -> None:
    course = compiled(TWO.replace("name: two", "name: two\nbudget: {rehearsal: 0.2}"))
    during = course.during == 1
    again = np.flatnonzero(course.rehearsed)
    assert round(0.2 * during.sum()) == len(again)
    assert (course.stage[again] == 0).all()
    assert np.diff(again).max() <= 6


def test_parts_of_a_course_are_a_mapping_by_chain(example: Course) -> None:
    parts = Parts(example)
    assert len(parts) == len(set(parts)) == len(np.unique(example.chain))
    assert all(parts[chain].chain == chain for chain in parts)
    assert parts.get("c0000000000000000") is None
    assert [part for part in parts.values() if not part.whole] == list(example.parts.values()) or example.parts


@pytest.mark.slow
def test_generated_genomes_compile_and_hold_every_chain_once(shelf: Shelf, compiled) -> None:
    text = genome_of(shelf, name='a "name"', books=25, stages=4)
    course = compiled(text)
    assert len(course) == len(shelf) == len(np.unique(course.chain))
    assert len(course.genome.stages) == 4
    assert 25 <= len(course.books) <= 25 + len(shelf.sources)
    assert compiled(FIRST).scenes == []


def test_the_report_counts_what_is_there(example: Course) -> None:
    report = course_report(example)
    tree = report.to_arrow("tree").to_pylist()
    stages = [row for row in tree if not row["course"].startswith(" ")]
    assert [row["course"] for row in stages] == ["abc", "school", "university", "science", "dialogues"]
    assert sum(row["rows"] for row in stages) == len(example)
    assert sum(row["tokens"] for row in stages) == int(example.tokens.sum())
    below = [
        row for row in tree if row["course"].startswith("    ") or row["course"].startswith(("  scene", "  rehearsal"))
    ]
    assert sum(row["rows"] for row in below) == len(example)
    gsm = next(row for row in tree if row["course"].strip() == "word problems")
    assert "100 % asked" in gsm["structure"]
    assert gsm["chains"] == 60


@pytest.mark.slow
def test_a_gap_leaves_nothing_that_its_audit_finds(example: Course, tmp_path: Path) -> None:
    (gap,) = example.gaps
    shelf = example.shelf
    families = {int(shelf.family[piece.chain]) for piece in gap.pieces}
    assert len(families) == 2  # the kettle in English and in Russian
    assert not (np.isin(shelf.family[example.chain], list(families))).any()
    assert gap.left == 0
    by_check = {recall.check: recall for recall in gap.recall}
    assert by_check["13-gram"].found == by_check["13-gram"].planted > 10
    assert by_check["entity pair"].found == by_check["entity pair"].planted > 10
    assert by_check["near neighbour"].found >= 0.8 * by_check["near neighbour"].planted > 10
    assert all(recall.stopped <= 0.1 * recall.others for recall in gap.recall)
    items = gap_items(example)
    assert len(items) == len(gap.pieces)
    # no row of the written course shares thirteen words in a row with a withheld step
    export_course(example, "trails", tmp_path / "course")

    def grams(text: str) -> set[tuple[str, ...]]:
        words = re.findall(r"\w+", text.lower())
        return {tuple(words[i : i + 13]) for i in range(len(words) - 12)}

    held = set().union(*(grams(str(item["bridge"])) for item in items))
    assert held
    for row in rows_of(tmp_path / "course"):
        assert not held & grams(row["prompt"] + row["completion"])


@pytest.mark.slow
def test_a_planted_copy_of_a_withheld_step_is_cut_off(packaged: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    with TraceStore(packaged) as traces:
        chains = [trace.chain for trace in traces.traces() if trace.chain.source == "trails/hundred"]
    topics = sorted({c.family for c in chains})[:12]
    chains = [c for c in chains if c.family in topics or c.metadata["topic"] in ("kettle", "sound")]
    kettle = next(c for c in chains if c.source_id == "en:kettle:plain")
    other = next(c for c in chains if c.source_id == "en:sound:reworded")
    steps = kettle.text.split(". ")
    planted = replace(other, text=f"{other.text.split('. ')[0]}. {steps[0]}. The rest follows.", source_id="planted")
    home = fill(tmp_path / "home", [*chains, planted])
    text = TWO.replace(
        "    sections:\n      - name: reworded",
        '    gap: {between: [plain, reworded], withhold: "meta:topic=kettle"}\n    sections:\n      - name: reworded',
    ).replace('{select: "meta:version=joined", take: 10, times: 3}', f'{{select: "chain:{planted.id}"}}')
    with TraceStore(home) as traces:
        (run,) = traces.runs().values()
        genome, document = parse_genome(text, "g.yaml")
        course = compile_course(genome, document, Shelf(traces, run))
        row = int(course.shelf.where(np.array([int(planted.id[1:], 16)], np.uint64))[0])
        part = course.part(row)
        assert not part.whole
        export_course(course, "trails", tmp_path / "course")
    written = next(one for one in rows_of(tmp_path / "course") if one["chain"] == planted.id)
    assert "kettle" not in written["completion"]
    assert written["completion"]
    assert set(course.tokens[course.chain == row].tolist()) == {len(written["input_ids"])}


def test_the_same_chain_with_other_steps_in_two_books_is_a_fault(shelf: Shelf, compiled, monkeypatch) -> None:
    known = shelf.select

    def select(text: str) -> Any:
        if text == "roles:IF":  # as a graph would answer
            rows = known("meta:version=plain")[0]
            return rows, {int(row): Part(shelf.id(int(row)), steps=(0,)) for row in rows}
        return known(text)

    monkeypatch.setattr(shelf, "select", select)
    course = compiled(TWO.replace("meta:version=plain", "roles:IF"))
    assert all(course.parts[row].steps == (0,) for row in course.chain[:30].tolist())
    text = TWO.replace("meta:version=reworded", "roles:IF")
    with pytest.raises(GenomeError, match=r"chains are in another book with other steps"):
        compiled(text.replace("take: 40", "take: 100"))


@pytest.mark.slow
def test_refused_outputs(compiled, tmp_path: Path) -> None:
    course = compiled(TWO)
    with pytest.raises(UsageError, match="a course is a folder"):
        export_course(course, "trails", tmp_path / "x.jsonl")
    export_course(course, "trails", tmp_path / "x")
    with pytest.raises(UsageError, match="exists. Choose another"):
        export_course(course, "trails", tmp_path / "x")
    before = (tmp_path / "x" / "train.jsonl").read_bytes()
    export_course(course, "trails", tmp_path / "x", overwrite=True)
    assert (tmp_path / "x" / "train.jsonl").read_bytes() == before


@pytest.mark.slow
def test_rows_longer_than_the_window_are_flagged(compiled, tmp_path: Path) -> None:
    scene = '{conflict_scene: {level: "school physics, sound, storm", trigger: "seconds between flash and thunder, a storm a kilometre away", resolution_expected: "wind"}}'
    text = TWO.replace(
        "    sections:\n      - name: reworded", f"    scenes: [{scene}]\n    sections:\n      - name: reworded"
    )
    course = compiled(text.replace("name: two", "name: two\nbudget: {window: 180}"))
    assert course.too_long.sum() == (course.tokens > 180).sum() > 0
    done = export_course(course, "trails", tmp_path / "x")
    assert done.cut == 1
    card = done.report.card.read_text(encoding="utf-8")
    assert "**longer than one sequence: a trainer will cut it**" in card
    assert export_course(compiled(text), "trails", tmp_path / "y").cut == 0


def test_what_is_known_of_the_chains_is_kept_and_made_again_when_they_change(tmp_path: Path) -> None:
    chains = list(read([canonical_path()]))[:20]
    home = fill(tmp_path / "home", chains[:12], shard=5)

    def told(made: Shelf) -> dict[str, object]:
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in _columns(made).items()
        }

    def opened() -> Shelf:
        with TraceStore(home) as traces:
            (run,) = traces.runs().values()
            return Shelf(traces, run)

    first = told(opened())
    (file,) = (home / "columns").iterdir()
    data, changed = file.read_bytes(), file.stat().st_mtime_ns
    assert told(opened()) == first
    assert file.stat().st_mtime_ns == changed  # read, not made again
    file.write_bytes(data[:-1])
    assert told(opened()) == first
    assert file.read_bytes() == data
    with TraceStore(home, write=True) as store:  # more chains: what is kept is of other shards
        scorer = open_scorer("uniform")
        store.write(scorer.measure([segmented(chain) for chain in chains[12:]], MeasureOptions()))
    more = opened()
    assert len(more) == 20
    assert {more.id(row) for row in range(20)} == {chain.id for chain in chains}
    # the same chains in other shards are the same columns
    other = fill(tmp_path / "other", chains[::-1], shard=3)
    with TraceStore(other) as traces:
        assert told(Shelf(traces, more.run)) == told(more)
    file.unlink()
    file.parent.rmdir()
    file.parent.write_text("in the way")  # a home that cannot be written keeps none
    assert told(opened()) == told(more)
    assert file.parent.read_text() == "in the way"


def _columns(made: Shelf) -> dict[str, object]:
    """What a shelf knows, by name."""
    names = ("numbers", "sources", "source", "families", "family", "languages", "language", "context", "length", "asked",
             "answered", "reflects")  # fmt: skip
    exact = {name: np.asarray(getattr(made, name)).view(np.uint64) for name in ("surprisal", "turn")}
    return {**{name: getattr(made, name) for name in names}, **exact}


def test_chains_are_numbered_by_source_and_record_and_found_by_their_id(shelf: Shelf) -> None:
    rows = []
    with TraceStore(shelf.traces.home) as traces:
        for table in traces.tables(["source", "source_id", "chain"], shelf.run.id):
            for source, record, chain in zip(*(column.to_pylist() for column in table.columns), strict=True):
                rows.append((source, int(record) if record.isdecimal() else 10**18, record, chain))
    ids = [shelf.id(row) for row in range(len(shelf))]
    rows.sort()
    assert [row[-1] for row in rows] == ids
    numbers = np.array([int(name[1:], 16) for name in ids], np.uint64)
    assert shelf.where(numbers).tolist() == list(range(len(shelf)))
    assert shelf.where(numbers[:3] + 1).tolist() == [-1] * 3
    among = np.arange(len(shelf)) % 3 == 0
    assert [shelf.id(row) for row in shelf.rising(among)] == sorted(ids[::3])
    assert shelf.keys(among).tolist() == sorted(numbers[::3].tolist())


ROLES = """\
genome: 1
name: roles
stages:
  - name: one
    sections:
      - name: a
        books:
          - {select: "meta:version=plain", take: 3, role: learner}
          - {select: "meta:version=plain", skip: 3, take: 3, role: critic}
"""


def test_roles_overlap_only_in_chains_that_are_taken(compiled) -> None:
    course = compiled(ROLES)
    assert [len(rows) for rows in role_rows(course).values()] == [3, 0, 3, 0]
    with pytest.raises(GenomeError, match=r"roles overlap: 1 chain is learner and critic"):
        compiled(ROLES.replace("skip: 3", "skip: 2"))
    # roles of selections that share no chain of the course
    apart = ROLES.replace(", role: learner", "").replace(", role: critic", "").replace("skip: 3, take: 3", "skip: 3")
    apart += 'roles: {learner: "meta:version=plain", critic: "meta:version=reworded"}\n'
    assert len(role_rows(compiled(apart))["learner"]) == len(compiled(apart))
    # both roles hold reworded chains, and the course none of them
    apart = apart.replace(
        '"meta:version=plain", critic: "meta:version=reworded"', '"meta:version=reworded", critic: "all"'
    )
    assert len(role_rows(compiled(apart))["critic"]) == len(compiled(apart))


def test_a_course_over_another_leaves_no_file_of_it(compiled, tmp_path: Path) -> None:
    to = tmp_path / "x"
    export_course(compiled(ROLES), "trails", to)
    (to / "notes.txt").write_text("mine", encoding="utf-8")
    assert set(role_files(to / "train.jsonl")) == {"learner", "critic"}
    stale = (to / "train.critic.jsonl").read_bytes()
    done = export_course(compiled(ROLES.replace(", role: critic", "")), "trails", to, overwrite=True)
    assert {path.name for path in to.iterdir()} == {
        *("course.jsonl", "genome.yaml", "train.README.md", "train.jsonl", "train.learner.jsonl", "notes.txt")
    }
    assert {path.parent for path in (*done.files.values(), *done.report.files.values(), done.report.card)} == {to}
    assert set(role_rows_of(to / "train.jsonl")) == {"learner"}
    # a file that came from elsewhere is refused, and so are rows that are not those of the list
    (to / "train.critic.jsonl").write_bytes(stale)
    with pytest.raises(UsageError, match=r"train.critic.jsonl is not of this course, which has learner"):
        role_files(to / "train.jsonl")
    (to / "train.critic.jsonl").rename(to / "train.learner.jsonl")
    with pytest.raises(UsageError, match=r"the rows of .*train.learner.jsonl are not those of the role learner"):
        role_rows_of(to / "train.jsonl")
    lines = (to / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (to / "train.jsonl").write_text("".join(reversed(lines)), encoding="utf-8")
    with pytest.raises(UsageError, match=r"the rows of .*train.jsonl are not those of"):
        role_rows_of(to / "train.jsonl")


def test_an_export_that_is_ended_keeps_the_course_or_leaves_one_that_is_known_as_broken(
    compiled, tmp_path: Path
) -> None:
    to, first = tmp_path / "x", compiled(ROLES)
    export_course(first, "trails", to)
    before = {path.name: path.read_bytes() for path in to.iterdir()}
    second = compiled(ROLES.replace("take: 3", "take: 2"))
    second.document.text = "\ud800"  # no file can hold it: the last file of the course cannot be written
    with pytest.raises(UnicodeEncodeError):
        export_course(second, "trails", to, overwrite=True)
    assert {path.name: path.read_bytes() for path in to.iterdir()} == before
    left = to / ".trails-course-0123abcd"
    (left / "made").mkdir(parents=True)  # of a killed process
    (to / "course.jsonl").unlink()  # killed between two files
    with pytest.raises(UsageError, match="is not the file of a whole course"):
        role_files(to / "train.jsonl")
    export_course(first, "trails", to, overwrite=True)
    assert {path.name: path.read_bytes() for path in to.iterdir()} == before


def test_the_prompt_of_a_withheld_step_begins_with_the_question_of_its_chain(compiled) -> None:
    course = compiled(
        "genome: 1\nname: t\nstages: [{name: s, gap: {between: [a, b], withhold: 'chain:7384afc53a51'}, sections: [{name: a, books: "
        "[{select: 'source:gsm8k/train'}, {select: 'meta:version=plain', take: 5}]}, {name: b, books: "
        "[{select: 'meta:version=reworded', take: 5}]}]}]\n"
    )
    items = gap_items(course)
    first = [item for item in items if item["step"] == 0]
    rows = np.unique(np.array([piece.chain for found in course.gaps for piece in found.pieces]))
    asked = {course.shelf.id(row): item["question"] for row, item in course.shelf.texts(rows)}
    assert first
    assert any(asked.values())
    assert all(item["prompt"].startswith(asked[item["chain"]]) for item in items)
    assert all(item["prompt"] == asked[item["chain"]] for item in first)


def test_memory_holds_the_rows_of_a_stage_and_no_copy_of_the_course(compiled) -> None:
    def peak(books: int) -> tuple[int, int]:
        stages = "".join(
            f"- name: a{n}\n  sections: [{{name: s{n}, books: [{', '.join(['{select: all, times: 16}'] * books)}]}}]\n"
            for n in range(4)
        )
        tracemalloc.start(1)
        course = compiled(f"genome: 1\nname: g\nstages:\n{stages}")
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return len(course), most

    (few, low), (many, high) = peak(1), peak(4)
    assert many == 4 * few
    assert (high - low) / (many - few) < 20, "bytes a row; a second copy of the rows takes 42"
