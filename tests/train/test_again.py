"""After a training, through the commands: measured again, compared by group, recalled; the wrong model or export is refused."""

from __future__ import annotations

import json
import random
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from tests.measure.reference import byte_tokenizer

from trails.cli import cli
from trails.errors import ModelError, UsageError
from trails.measure.base import MeasureOptions, Segmented
from trails.pipeline import Home
from trails.pipeline.reporting import report as report_page
from trails.pipeline.stellating import compared
from trails.report.html import NOISE_NOTE, noise_of
from trails.store.traces import TraceStore
from trails.variants import VariantOptions
from trails.variants.stored import read_variant_run

pytestmark = pytest.mark.train


def run(*arguments: Any) -> str:
    result = CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


WALK = ("\nSo odd ", "\nThus even ")  # each below the 13 tokens that tie chains to one side of a split


def save_model(folder: Path, seed: int = 0) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder with a model, a home of three sources measured by it, an export of one of them, an adapter and its control."""
    save_model(tmp_path / "model")
    letters = random.Random(0)

    def lines(fixed: bool) -> str:
        def free() -> str:
            return " ".join("".join(letters.choices("abcdefgh", k=4)) for _ in range(2))

        return f"{free()}{WALK[0]}{free()}{WALK[1]}{free()}." if fixed else f"{free()}.\n{free()}.\n{free()}."

    for name, count, fixed in (("walks", 24, True), ("other", 6, True), ("noise", 6, False)):
        # no versions of one thing, which would stay on one side of a split
        rows = [{"question": "Why?", "answer": lines(fixed), "thing": f"{name} {i}"} for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    home, model = ("--home", tmp_path / "home"), ("--model", tmp_path / "model")
    files = [tmp_path / f"{n}.jsonl" for n in ("walks", "other", "noise")]
    run("ingest", *files, *home, *model, "--device", "cpu", "--family", "thing", "--per-layer", "--states", 1)
    walks = "MATCH (c:Chain) WHERE c.source CONTAINS 'walks' RETURN c"
    export = tmp_path / "rows.parquet"
    run("export", "--subgraph", walks, "--format", "trails", "--split", "0.25", "-o", export, *home)
    for name, extra in (("adapter", ()), ("control", ("--shuffle-steps",))):
        settings = ("--steps", 12, "--learning-rate", 0.02, "--checkpoint-every", 6)
        run("train", export, "-o", tmp_path / name, *settings, *extra, *home, *model, "--device", "cpu")
    return tmp_path


def test_the_trained_walk_is_measured_again_compared_and_recalled(trained: Path) -> None:
    common = ("--home", trained / "home", "--model", trained / "model", "--device", "cpu")
    arguments = ("--adapter", trained / "adapter", "--export", trained / "rows.parquet", "--unrelated", "noise.jsonl")
    found = json.loads(run("diff", *arguments, "--checkpoints", "--json", *common))
    groups = {group["group"]: group for group in found["groups"]}
    assert set(groups) == {"trained", "held_out", "unseen", "unrelated"}
    assert groups["trained"]["chains"] + groups["held_out"]["chains"] == 24
    for name in ("trained", "held_out", "unseen"):  # the walk was planted there
        assert groups[name]["high"] < -found["noise"]
        assert groups[name]["surprisal"] < groups["unrelated"]["surprisal"]
    assert [row["step"] for row in found["checkpoints"]] == [0, 6, 12]
    assert found["checkpoints"][0]["kl held_out"] == 0 < found["checkpoints"][-1]["kl held_out"]

    with Home(trained / "home") as home:
        second = next(known for known in home.runs().values() if known.adapter)
        assert found["after"] == second.id
        assert home.state_layers(second.id) == home.state_layers(found["before"]) == (1,), "PHASE is judged after, too"
        arrays = (
            "MATCH (:Token)-[r:NEXT]->(:Token) WHERE r.run = $run RETURN DISTINCT r.hidden_shift_by_layer IS NULL AS n"
        )
        assert home.cypher(arrays, {"run": second.id}).dicts() == [{"n": False}]  # as the first run was written
        moved = home.query("easier-transitions", before=found["before"], after=second.id, limit=5)
        rows = moved.dicts()
        assert len(rows) == 5
        assert {row["piece"] for row in rows} <= set("".join(WALK))
        assert all(row["change"] == pytest.approx(row["after"] - row["before"], abs=1e-5) for row in rows)
        assert max(row["change"] for row in rows) < -found["noise"]
        # which unrelated transitions moved: the graph's rows are those that the two runs of the shards differ by
        unrelated = home.cypher(
            "MATCH (c:Chain)-[:HAS_STEP]->(:Step)-[:FIRST]->(:Token) WHERE c.source CONTAINS 'noise' WITH DISTINCT c "
            "MATCH (a:Token {chain: c.id})-[x:NEXT]->(b:Token) WHERE x.run = $before "
            "MATCH (a)-[y:NEXT]->(b) WHERE y.run = $after AND abs(y.surprisal - x.surprisal) > $floor "
            "RETURN b.id AS token, y.surprisal - x.surprisal AS change ORDER BY abs(change) DESC",
            {"before": found["before"], "after": second.id, "floor": found["noise"]},
        ).dicts()
        first = {trace.chain.id: trace for trace in home.traces(found["before"]) if "noise" in trace.chain.source}
        wanted = {}
        for trace in home.traces(second.id):
            if trace.chain.id in first:
                delta = trace.surprisal - first[trace.chain.id].surprisal
                # the first token of a chain has no token before it, so no relationship
                wanted |= {
                    trace.token_id(i): float(delta[i]) for i in range(1, len(delta)) if abs(delta[i]) > found["noise"]
                }
        assert len(first) == 6
        assert unrelated
        assert {row["token"]: pytest.approx(row["change"], abs=1e-5) for row in unrelated} == wanted
        with pytest.raises(UsageError, match="with an adapter"):
            home.scorer(second.id)
    again = json.loads(
        run("diff", found["before"], found["after"], "--export", trained / "rows.parquet", "--json", *common)
    )
    assert {group["group"]: group["surprisal"] for group in again["groups"]}["trained"] == groups["trained"][
        "surprisal"
    ]

    # what a block states is judged at the places of the first run, by the numbers of both
    block = trained / "walk.stellator"
    block.write_text("[ZONE: all]\nSTEP → NONE\nDRIFT → activates hidden shift\n", encoding="utf-8")
    stated = json.loads(run("diff", found["before"], second.id, "--stellator", block, "--json", *common))["stellator"]
    row = next(row for row in stated["assertions"] if row["line"] == "DRIFT → activates hidden shift")
    assert {row["before"], row["after"]} <= {"pass", "fail"}
    assert row["change"] == pytest.approx(row["now"] - row["was"], abs=1e-9)
    assert row["was"] != row["now"]
    for name, value in ((found["before"], row["was"]), (second.id, row["now"])):
        alone = json.loads(
            run("stellator", "run", block, "--run", name, "--no-model", "--json", "--home", trained / "home")
        )
        score = next(score for score in alone["block 1"]["scores"] if score["name"].startswith("hidden_shift"))
        assert score["value"] == pytest.approx(value, abs=1e-9)
        reach = score["controls"][0]["interval"][1]
        assert (row["before"] if name == found["before"] else row["after"]) == ("pass" if value > reach else "fail")

    recalled = json.loads(
        run("recall", "all", "--adapter", trained / "adapter", "--shuffled", trained / "control",
            "--export", trained / "rows.parquet", "--json", *common)
    )  # fmt: skip
    assert recalled["left_out_as_trained_on"] == groups["trained"]["chains"]
    every = recalled["scored"] + recalled["left_out_as_trained_on"] + sum(recalled["left_out"].values())
    assert every == recalled["selected"] == sum(group["chains"] for group in groups.values())
    rows = {row["name"]: row for row in recalled["rows"]}
    assert rows["trained"]["chains"] == 36 - groups["trained"]["chains"]
    trained_minus = {pair["against"]: pair for pair in recalled["differences"] if pair["model"] == "trained"}
    assert trained_minus["untrained"]["high"] < 0
    assert recalled["verdict"].startswith("the trained model recalls conclusions better than the untrained one")
    low, high = (trained_minus["shuffled"][end] for end in ("low", "high"))
    how = (
        "the untrained one and"
        if high < 0
        else "and recalls conclusions worse than"
        if low > 0
        else "and is not shown to recall conclusions better than"
    )
    assert f"{how} the one trained on shuffled steps: " in recalled["verdict"]
    (gain,) = recalled["scores"]
    assert gain["value"] == pytest.approx(rows["untrained"]["nll"] - rows["trained"]["nll"], abs=1e-6)
    assert gain["controls"][0]["value"] == pytest.approx(rows["untrained"]["nll"] - rows["shuffled"]["nll"], abs=1e-6)


def test_bridges_to_an_anchor_are_scored_again_by_the_trained_model(trained: Path) -> None:
    """Before: as `stellator run` scores them. After: as it scores them in a home measured by a model into which the adapter was
    merged, which needs no adapter to be scored."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    common = ("--model", trained / "model", "--device", "cpu")
    block = trained / "anchor.stellator"
    block.write_text('[ZONE: all]\nSTEP → "So odd"\nANCHOR → "Thus even"\n', encoding="utf-8")
    page = trained / "anchor.html"
    arguments = ("--adapter", trained / "adapter", "--stellator", block, "--pairs", 8, "--home", trained / "home")
    shown = CliRunner().invoke(cli, [str(a) for a in ("diff", *arguments, "--html", page, *common)])
    assert shown.exit_code == 0, shown.output
    found = json.loads(run("diff", *arguments, "--json", *common))
    row = next(row for row in found["stellator"]["assertions"] if row["line"].startswith("ANCHOR"))

    base = AutoModelForCausalLM.from_pretrained(trained / "model", dtype=torch.float32)
    PeftModel.from_pretrained(base, str(trained / "adapter")).merge_and_unload().save_pretrained(trained / "merged")
    byte_tokenizer().save_pretrained(trained / "merged")
    files = [trained / f"{n}.jsonl" for n in ("walks", "other", "noise")]
    merged = ("--home", trained / "home-merged", "--model", trained / "merged", "--device", "cpu")
    run("ingest", *files, *merged, "--family", "thing")
    first = ("--run", found["before"], "--home", trained / "home", *common)
    for side, places in (("was", first), ("now", merged)):
        alone = json.loads(run("stellator", "run", block, "--pairs", 8, "--json", *places))["block 1"]
        line = next(line for line in alone["lines"] if line["line"].startswith("ANCHOR"))
        assert row["before" if side == "was" else "after"] == line["verdict"] != "not decidable"
        assert row[side] == pytest.approx(line["value"], abs=1e-4)
        assert row[f"control_{side}"] == pytest.approx(line["control"], abs=1e-4)
    assert row["now"] < row["was"], "the walk was trained"
    assert row["change"] == pytest.approx(row["now"] - row["was"], abs=1e-9)
    assert row["control_change"] == pytest.approx(row["control_now"] - row["control_was"], abs=1e-9)
    for said in ("control before", "change of control", "block 1, before: ANCHOR", "block 1, after: ANCHOR"):
        assert said in " ".join(shown.output.split())
        assert said in page.read_text("utf-8")

    # two runs by name: the adapter is not at hand, and one side alone compares nothing
    two = (found["before"], found["after"], "--stellator", block, "--noise", 0, "--home", trained / "home")
    kept = json.loads(run("diff", *two, "--json", *common))["stellator"]
    row = next(row for row in kept["assertions"] if row["line"].startswith("ANCHOR"))
    assert row["before"] == row["after"] == "not decidable"
    assert row["was"] is row["now"] is row["change"] is None
    assert any("trails diff BEFORE --adapter FOLDER" in note for note in kept["notes"])
    with (
        Home(trained / "home", model=str(trained / "model"), device="cpu") as home,
        pytest.raises(UsageError, match="Give the adapter of that run"),
    ):
        compared(home, block, found["before"], found["after"], adapter=trained / "control")


def test_comparing_leaves_the_instrument_as_it_was(trained: Path) -> None:
    with Home(trained / "home", model=str(trained / "model"), device="cpu") as home:
        trace = next(home.traces())
        item = Segmented(trace.chain, trace.steps)

        def measured() -> list[float]:
            (again,) = home.scorer().measure([item], MeasureOptions())
            return again.surprisal.tolist()

        before = measured()
        home.diff(adapter=trained / "adapter", noise=1, kl=1)
        assert measured() == before
        home.recall("all", trained / "adapter", shuffled=trained / "control")
        assert measured() == before == trace.surprisal.tolist()


def test_a_diff_keeps_the_noise_floor_for_the_page_of_a_comparison(
    trained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def page(name: str) -> tuple[str, dict[str, float]]:
        with Home(trained / "home", device="cpu") as home:
            written = report_page(home, (), trained / name, run=base, compare=after)
            return " ".join(written.left_out), noise_of(home.run(base))

    with Home(trained / "home", model=str(trained / "model"), device="cpu") as home:
        base = home.run().id
        after = home.diff(adapter=trained / "adapter", noise=0, kl=0).report.after
        asks = f"The noise floor of the change is not measured. It is measured by: trails diff {base} {after}"
        told, floor = page("none.html")
        assert asks in told
        assert floor == {}, "nothing was measured"
        with TraceStore(trained / "home", write=True):
            found = home.diff(base, after, noise=2, kl=0)
        assert "the noise floor is not kept" in caplog.text, "of a home that another command writes to"
        assert page("busy.html") == (told, {})
        found = home.diff(base, after, noise=2, kl=0)
        note = home.run(base).notes[NOISE_NOTE]
    assert note == {"surprisal": found.report.noise, "surprisal_mean": found.report.noise_mean, "chains": 2}
    told, floor = page("some.html")
    assert asks not in told
    assert floor == {"surprisal": found.report.noise}


def test_what_a_training_was_not_fed_is_not_called_trained(trained: Path) -> None:
    """Two steps of four rows, cut to 24 tokens: the rows say which chains and tokens that were."""
    common = ("--home", trained / "home", "--model", trained / "model", "--device", "cpu")
    export, short = trained / "rows.parquet", trained / "short"
    run("train", export, "-o", short, "--steps", 2, "--max-tokens", 24, *common)
    rows = pq.read_table(export).to_pylist()
    found = json.loads(run("diff", "--adapter", short, "--export", export, "--noise", 0, "--json", *common))
    groups = {group["group"]: group for group in found["groups"]}
    assert (groups["trained"]["chains"], groups["not_fed"]["chains"]) == (8, len(rows) - 8)
    fed = sum(sum(label != -100 for label in row["labels"][1:24]) for row in rows[:8])
    every = sum(sum(label != -100 for label in row["labels"][1:]) for row in rows[:8])
    assert groups["trained"]["tokens"] == fed < every
    assert found["tokens_behind_the_cut"] == every - fed
    notes = " ".join(found["notes"])
    assert (
        f"{every - fed} tokens lie behind the cut of the training (--max-tokens), so in no group: not trained" in notes
    )
    assert f"not_fed: {len(rows) - 8} chains of the export that the training ended before, or cut to nothing" in notes


def test_another_model_and_another_export_are_refused(trained: Path) -> None:
    save_model(trained / "other-model", seed=1)
    with Home(trained / "home", model=str(trained / "other-model"), device="cpu") as home:
        with pytest.raises(UsageError, match="--model, or choose"):
            home.scorer()
        with pytest.raises(UsageError, match="--adapter FOLDER"):
            home.diff()
        with pytest.raises(UsageError, match="given twice"):
            home.diff(home.run().id, home.run().id)
    with Home(trained / "home", model=str(trained / "model"), device="cpu") as home:
        home.export("all", format="trails", to=trained / "all.parquet")
        for name, message in (
            ("adapter_config.json", "adapter_config.json is damaged"),
            ("adapter_model.safetensors", "adapter_model.safetensors is damaged"),
            ("train.json", "train.json is damaged"),
        ):
            broken = trained / f"without-{name}"
            shutil.copytree(trained / "adapter", broken)
            (broken / name).write_bytes((broken / name).read_bytes()[:-20])
            with pytest.raises(ModelError, match=message):
                home.recall("all", broken)
            with pytest.raises(ModelError, match=message):
                home.diff(adapter=broken)
        with pytest.raises(UsageError, match="another export"):
            home.recall("all", trained / "adapter", export=trained / "all.parquet")
        for missing in (trained, trained / "missing.parquet"):
            with pytest.raises(UsageError, match="cannot be read"):
                home.diff(adapter=trained / "adapter", export=missing)
        with pytest.raises(UsageError, match="another export"):
            home.diff(adapter=trained / "adapter", export=trained / "all.parquet")
        with pytest.raises(UsageError, match=r"'wiki' fits no source.*noise.jsonl"):
            home.diff(adapter=trained / "adapter", unrelated=["wiki"], noise=0, kl=0)
        adapted = home.run().id
        with pytest.raises(UsageError, match="none of those"):
            home.recall("all", trained / "adapter", export=trained / "rows.parquet", max_tokens=2, run=adapted)


def test_groups_follow_the_export_and_the_sources(tmp_path: Path) -> None:
    from trails.evaluate.groups import groups_of

    sources = {"a1": "a", "a2": "a", "a3": "a", "b1": "b", "n1": "set/noise"}
    for name, chains in (("rows", ["a1"]), ("rows.held_out", ["a2"])):
        pq.write_table(pa.table({"chain": chains}), tmp_path / f"{name}.parquet")
    groups = groups_of(sources, tmp_path / "rows.parquet", ["noise"])
    # a3 was neither trained on nor held out by name, but is of the same source as what was trained on
    assert groups == {"a1": "trained", "a2": "held_out", "a3": "held_out", "b1": "unseen", "n1": "unrelated"}
    assert set(groups_of(sources, None, ["noise"]).values()) == {"compared", "unrelated"}


def test_text_that_repeats_itself_after_the_training_raises_an_alarm(trained: Path, monkeypatch) -> None:
    from trails.evaluate import difference

    rows = [{"step": 0, "repetition": 0.1}, {"step": 6, "repetition": 0.2}, {"step": 12, "repetition": 0.9}]
    monkeypatch.setattr(difference, "_by_checkpoint", lambda *_: rows)
    with Home(trained / "home", model=str(trained / "model"), device="cpu") as home:
        found = home.diff(adapter=trained / "adapter", noise=0, kl=1)
    (alarm,) = [alarm for alarm in found.alarms if "0.100 → 0.900" in alarm]
    looked = sum(min(2, count) for count in found.chains.values())
    assert alarm.endswith(f"on {looked} chain{'s' if looked > 1 else ''}")
    assert found.told().verdict.startswith(f"alarm: {alarm}; ")
    assert found.record()["checkpoints"] == rows


def test_chains_of_an_export_are_read_or_refused_in_one_sentence(tmp_path: Path) -> None:
    from trails.evaluate.groups import exported_chains

    path = tmp_path / "rows.jsonl"
    rows = [{"text": "one\u2028line\x85of a text", "chain": "c1"}, {"text": "two", "chain": "c2"}]
    whole = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n"
    path.write_text(whole, encoding="utf-8", newline="\n")
    assert exported_chains(path) == {"c1", "c2"}
    pq.write_table(pa.table({"text": ["one"]}), tmp_path / "other.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "other.parquet").read_bytes()[:100])
    (tmp_path / "cut.jsonl").write_text(whole[:-9], encoding="utf-8")
    (tmp_path / "other.jsonl").write_text('{"text": "one"}\n', encoding="utf-8")
    (tmp_path / "list.jsonl").write_text("[1]\n", encoding="utf-8")
    for name in ("other.parquet", "cut.parquet", "cut.jsonl", "other.jsonl", "list.jsonl", "missing.jsonl", "."):
        with pytest.raises(UsageError, match="is not an export that names its chains"):
            exported_chains(tmp_path / name)


def test_variants_are_stored_as_a_run_drawn_again_and_trained_on(trained: Path) -> None:
    common = ("--home", trained / "home", "--model", trained / "model", "--device", "cpu")
    with Home(trained / "home") as home:
        chain = next(home.traces()).chain.id
    made = run("variants", chain[:12], "--count", 6, "--volatility-budget", -1, "--drift", *common)
    name = made.partition("stored: ")[2].split()[0]
    assert "drift map, hidden states" in made
    assert "drift map, attention" in made
    again = run("variants", name, "--home", trained / "home")  # drawn from the file: no model is opened
    picture = made.index("volatility in nats")
    assert again.splitlines()[:-3] == made[picture:].splitlines()[:-4]
    assert f"--variants {name} --format trails" in again.splitlines()[-1] == made.splitlines()[-1]

    stored = trained / "home" / "variants" / f"{name}.parquet"
    before = stored.read_bytes()
    found = json.loads(run("variants", chain, "--count", 6, "--volatility-budget", -1, "--drift", "--json", *common))
    assert stored.read_bytes() == before
    assert found["id"] == name
    assert found["accepted"] == sum(kind["accepted"] for kind in found["kinds"]) == 6
    for kind in found["kinds"]:
        if not kind["accepted"]:  # every one of them breaks a word or a sentence
            assert kind["hidden_drift"] == []
            assert kind["attention_drift"] is None
            continue
        assert len(kind["hidden_drift"]) == 3  # two layers and the embeddings
        assert len(kind["attention_drift"]) == 2
    written = {row["chain"]: row for row in pq.read_table(stored).to_pylist()}
    for _ in range(2):  # the drift map lies in the graph, also after a rebuild
        with Home(trained / "home") as home:
            drifts = home.query("variants-of-chain", chain=chain).dicts()
            cells = home.query("drift-map", chain=chain).dicts()
        assert sorted(row["variant"] for row in drifts) == sorted(written)
        assert [row["logit_drift"] for row in drifts] == sorted(
            (r["logit_drift"] for r in written.values()), reverse=True
        )
        assert len(cells) == 6 * 3
        for row in drifts:
            hidden = written[row["variant"]]["hidden_drift"]
            assert row["hidden_drift"] == pytest.approx(np.mean(hidden[1:]), rel=1e-6)
            assert row["hidden_layer"] == 1 + np.argmax(hidden[1:])
            assert row["noise_floor"] == written[row["variant"]]["noise_floor"]
        for cell in cells:
            hidden, attention = (written[cell["variant"]][f"{kind}_drift"] for kind in ("hidden", "attention"))
            assert cell["hidden_drift"] == hidden[cell["layer"]]
            assert cell["attention_drift"] == (attention[cell["layer"] - 1] if attention and cell["layer"] else None)
        run("rebuild", "--fresh", "--home", trained / "home")
    with Home(trained / "home") as home:
        report = home.export(f"chain:{chain}", format="trails", to=trained / "from-python.parquet", variants=name)
        assert report.counts.rows == 6  # the plain variant is the chain, which is there already
    rows = ("--format", "trails", "-o", trained / "with-variants.parquet", "--variants", name)
    assert run("export", "--subgraph", f"chain:{chain}", *rows, "--home", trained / "home").startswith("6 rows of ")
    written = pq.read_table(trained / "with-variants.parquet")
    assert sorted(written["parent"].to_pylist()) == ["", *[chain] * 5]
    assert len(set(written["subgraph"].to_pylist())) == 1
    with Home(trained / "home") as home:  # variants follow the chains that are selected
        other = next(trace.chain.id for trace in home.traces() if trace.chain.id != chain)
        with pytest.raises(UsageError, match="no variant of .* is of a chain of the selection"):
            home.export(f"chain:{other}", format="trails", to=trained / "other.parquet", variants=name)
        with pytest.raises(UsageError, match=f"The home holds: {name}"):
            home.export("all", format="trails", to=trained / "other.parquet", variants="v0123456789abcdef")
        report = home.export("all", format="trails", to=trained / "both.parquet", variants=name)
        assert (report.counts.rows, report.counts.chains, report.counts.variants) == (41, 36, 5)
        edits = [kind["edits"] for kind in found["kinds"] if kind["accepted"]]
        assert f"between a variant and its parent | {max(edits)} |" in report.card.read_text(encoding="utf-8")

    own = trained / "my variants.parquet"  # no id of the home: what is printed is what can be typed
    elsewhere = run("variants", chain, "--count", 6, "--volatility-budget", -1, "--drift", "-o", own, *common)
    assert f"stored: {own}\n" in elsewhere
    typed = shlex.split(elsewhere.splitlines()[-1])
    assert own.read_bytes() == before
    rows = ("--format", "trails", "-o", trained / "own.parquet", "--variants", typed[typed.index("--variants") + 1])
    assert run("export", "--subgraph", f"chain:{chain}", *rows, "--home", trained / "home").startswith("6 rows of ")
    arguments = ("--count", 6, "--volatility-budget", -1, "--drift", "-o", own, "--json")
    assert json.loads(run("variants", chain, *arguments, *common))["id"] is None
    with Home(trained / "home") as home, pytest.raises(UsageError, match=f"The home holds: {name}"):
        home.variant_run("v0123456789abcdef")

    with Home(trained / "home", model=str(trained / "model"), device="cpu") as home:
        for path, message in (("rows.parquet", "not a file of variants"), ("own.jsonl", "ends in '.jsonl'")):
            with pytest.raises(UsageError, match=message):
                home.variants(chain, to=trained / path)
        # what is refused leaves no noise floor to show
        nothing = VariantOptions(count=2, budget=-1.0)
        _, refused = home.variants(chain, nothing, to=trained / "nothing.parquet")
    assert refused.noise_floor is None
    assert sum(kind.made for kind in refused.kinds) > sum(kind.accepted for kind in refused.kinds) == 0
    refused.rejected.write_text(refused.rejected.read_text(encoding="utf-8")[:-9], encoding="utf-8")
    with pytest.raises(UsageError, match="is damaged"):
        read_variant_run(refused.path)
