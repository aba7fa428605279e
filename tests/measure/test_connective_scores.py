"""Log-likelihoods behind connectives are those of the text written out, token by token; the command judges a home by them."""

from __future__ import annotations

import contextlib
import json
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.measure.reference import byte_tokenizer

from trails.measure.connectives import BEFORE_CHARS, behind_connectives, mean_behind
from trails.pipeline.connecting import connected
from trails.schema import Chain
from trails.segment import segment


@pytest.fixture(scope="module")
def model():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).double().eval(), tokenizer


def alone(module, tokenizer, text: str, start: int, end: int) -> float:
    """ln p of the tokens of ``text[start:end]``, one pass for each of them."""
    row = tokenizer(text, return_offsets_mapping=True)
    total = 0.0
    for t, (a, b) in enumerate(row["offset_mapping"]):
        if b > a and start <= a < end:
            with torch.no_grad():
                logits = module(input_ids=torch.tensor([row["input_ids"][:t]])).logits[0, -1]
            total += float(torch.log_softmax(logits, -1)[row["input_ids"][t]])
    return total


def test_scores_are_the_log_likelihoods_of_the_text_written_out(model) -> None:
    before, words = "Tom has 5 apples. ", "he has 8 in all."
    found = behind_connectives(*model, before, words, ["so", "because"])
    for r, said in enumerate(("So", "Because")):
        text = f"Tom has 5 apples. {said} {words}"
        lead, body = len("Tom has 5 apples. "), len(f"Tom has 5 apples. {said} ")
        assert found[r, 0] == pytest.approx(alone(*model, text, lead, body), abs=1e-4)
        assert found[r, 1] == pytest.approx(alone(*model, text, body, len(text)), abs=1e-4)
    inside = behind_connectives(*model, "Tom has 5 apples,", words, ["so"])
    text = f"Tom has 5 apples, so {words}"
    assert inside[0, 1] == pytest.approx(alone(*model, text, 21, len(text)), abs=1e-4)
    assert (behind_connectives(*model, before, " ", ["so"]) == 0).all()


def test_the_text_before_is_gone_through_once_for_all_connectives(model) -> None:
    module, tokenizer = model
    before, words = "Tom has 5 apples and he gets 3 more from a friend. ", "he has 8 in all."
    seen = []
    handle = module.register_forward_pre_hook(
        lambda _, __, said: seen.append(said["input_ids"].shape), with_kwargs=True
    )
    found = behind_connectives(module, tokenizer, before, words, ["so", "because", "but"])
    handle.remove()
    (one, near), (three, rest) = seen
    assert (one, three) == (1, 3)
    longest = len(tokenizer(f"{before}Because {words}")["input_ids"])
    assert near + rest == longest
    assert near > 2 * rest / 3
    # behind the shared text, and where nothing is shared
    for r, said in enumerate(("so", "because", "but")):
        assert found[r] == pytest.approx(behind_connectives(module, tokenizer, before, words, [said])[0], abs=1e-9)
        body = said.capitalize() + " "
        first = behind_connectives(module, tokenizer, "", words, [said, "also"])[0]
        assert first[1] == pytest.approx(alone(module, tokenizer, body + words, len(body), len(body + words)), abs=1e-4)


def test_a_model_that_keeps_more_than_keys_and_values_reads_the_rows_whole() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    config = MambaConfig(vocab_size=len(tokenizer), hidden_size=16, state_size=4, num_hidden_layers=2)
    module = MambaForCausalLM(config).eval()
    found = behind_connectives(module, tokenizer, "Tom has 5. ", "he has 8.", ["so", "because"])
    for r, said in enumerate(("So ", "Because ")):
        lead = "Tom has 5. " + said
        text = lead + "he has 8."
        assert found[r, 1] == pytest.approx(alone(module, tokenizer, text, len(lead), len(text)), abs=1e-3)


def test_the_mean_behind_a_text_is_that_of_its_own_tokens(model) -> None:
    before, text = "It rains.\n", "The street is wet."
    whole = alone(*model, before + text, len(before), len(before + text))
    n = len(model[1](text)["input_ids"])  # no token joins both texts
    assert n < len(text)
    assert mean_behind(*model, before, text) == pytest.approx(whole / n, abs=1e-5)
    assert mean_behind(*model, before, "") != mean_behind(*model, before, "")


def test_only_the_near_text_counts(model) -> None:
    near = "x" * (BEFORE_CHARS - 24) + " the end of it, "  # before it the window holds the end of a word alone
    assert BEFORE_CHARS - len(f" and {near}") == 3
    a, b = (behind_connectives(*model, f"{far} and {near}", "it is so.", ["but"]) for far in ("one " * 90, "two " * 90))
    assert a.tolist() == b.tolist()


def test_steps_are_those_with_a_connective_which_is_deleted(model) -> None:
    chain = Chain(
        "s", "1", "", "Tom has 5. He gets 3, so he has 8. But he eats one. If it rains, he sleeps.", language="en"
    )
    russian = Chain("s", "2", "", "Идёт дождь. Поэтому улица мокрая.", language="ru")
    items = [(c, segment(c)) for c in (chain, russian)]
    roles, found = connected(items, "en", partial(behind_connectives, *model))
    assert [roles[step.role] for step in found] == ["THEREFORE", "BUT"]
    assert {step.chain for step in found} == {chain.id}
    for step in found:
        assert step.known.sum() == pytest.approx(1)
        assert step.scores.shape == (len(roles), 2)
        assert (step.scores < 0).all()
    roles, found = connected(items, "ru", partial(behind_connectives, *model))
    assert [roles[step.role] for step in found] == ["THEREFORE"]


def test_the_command_says_how_little_a_small_home_tells(model, tmp_path: Path, monkeypatch, capfd) -> None:
    import sys

    from trails.__main__ import main

    module, tokenizer = model
    module.float().save_pretrained(tmp_path / "toy")
    tokenizer.save_pretrained(tmp_path / "toy")
    module.double()
    rows = [{"id": str(i), "question": "q", "chain": f"He has {i}. So he has more. But it is late."} for i in range(3)]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAILS_HOME", str(tmp_path / "home"))

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["trails", *arguments])
        with contextlib.suppress(SystemExit):  # a failure prints no JSON
            main()
        return str(capfd.readouterr().out)

    run("ingest", "c.jsonl", "--model", "toy")
    said = json.loads(run("roles", "connectives", "--json"))
    assert said["n_steps"] == 6
    assert said["verdict"].startswith("too little to judge: 6 steps with a connective in 3 chains")
