"""Train a LoRA adapter on an export: a thin layer on PEFT and TRL.

TRL's SFTTrainer does the training loop, checkpoints and resuming. This layer replaces what it would lose (seen in TRL 1.16):
it drops further columns, cuts ids and labels but not weights, loses weights when packing, draws rows at random, and hands no
weights to a loss function. Here rows, weights and order arrive as the export wrote them, tested one by one.

The adapter's folder holds ``adapter_model.safetensors``, ``adapter_config.json``, ``train.json`` (what was trained on what)
and a card that names the export by its SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from trails.errors import MissingPackageError, ModelError, UsageError
from trails.platform.files import sha256, write_atomic
from trails.schema import Run
from trails.train.attention import NAME as BINNED
from trails.train.attention import TeacherMap, attention_loss, install, tapped
from trails.train.data import Collator, Row, dataset, load_rows, shuffled_steps
from trails.train.loss import OBJECTIVES, Objective, labelled_logits, shifted, token_loss, token_nll

__all__ = ["TrainOptions", "TrainReport", "check_adapter", "put_adapter", "train", "train_rows"]

TARGETS: dict[str, tuple[str, ...] | str] = {
    "all": "all-linear",
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "channels": ("q_proj", "k_proj"),
}
"""Named sets of modules: every linear layer of the decoder, its attention projections, or those that say where it looks."""


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How to train. ``steps`` are optimiser steps (0 = one pass over the rows); each takes ``batch`` × ``accumulate`` rows.

    ``layers`` are the only layers with an adapter (None: those the export names, empty: all). ``targets`` is a name of
    :data:`TARGETS` or module names joined by commas; None means ``all``, and ``channels`` for the attention objective.
    ``lm_share`` adds that share of the language-model loss to the attention objective. ``max_tokens`` cuts longer rows; 0
    refuses rows longer than the model's window. ``shuffle_steps`` trains on the same tokens with the steps of every chain in
    another order (the control for recall). ``checkpoint_every`` steps (0 = only at the end).
    """

    steps: int = 0
    batch: int = 4
    accumulate: int = 1
    learning_rate: float = 1e-3
    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    targets: str | None = None
    layers: tuple[int, ...] | None = None
    objective: Objective = "lm"
    lm_share: float = 0.0
    schedule: str = "constant"
    warmup_steps: int = 0
    max_grad_norm: float = 1.0
    checkpoint_every: int = 0
    max_tokens: int = 0
    seed: int = 0
    shuffle_steps: bool = False


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What was trained. ``losses`` are (step, loss) as logged; ``checkpoints`` are folders by step, the last one ``adapter``.

    ``layers`` are those with an adapter; ``resumed`` the step it continued from (0 = from the start).
    """

    adapter: Path
    steps: int
    rows: int
    tokens: int
    losses: tuple[tuple[int, float], ...]
    checkpoints: Mapping[int, Path]
    layers: tuple[int, ...]
    trainable: int
    resumed: int = 0
    finished_before: bool = False


def train(
    export: Path,
    output: Path,
    model: Any,
    tokenizer: Any,
    run: Run,
    options: TrainOptions | None = None,
    *,
    teachers: Mapping[str, TeacherMap] | None = None,
    overwrite: bool = False,
    callbacks: Sequence[Any] = (),
) -> TrainReport:
    """Train an adapter for ``model`` (a causal language model with its ``tokenizer``; ``run`` names it) on an export.

    Continues by itself where an interrupted training with the same export, model and options stopped; with options that
    differ it raises UsageError unless ``overwrite``. ``teachers`` are stored maps by chain, for the attention objective.
    ``model`` is changed: it carries the adapter afterwards.
    """
    options = options or TrainOptions()
    rows = load_rows(export)
    for row in rows:
        if row["tokenizer_sha"] != run.tokenizer:
            raise UsageError(
                f"{export} was made with tokenizer {row['tokenizer_sha'][:8]}, the model {run.model} has {run.tokenizer[:8]}."
                " Measure and export with this model: trails ingest, trails export"
            )
    if options.shuffle_steps:
        rows = shuffled_steps(rows, options.seed)
    identity = {"export": sha256(export), "model": run.model, "revision": run.revision, "adapter": run.adapter}
    return train_rows(
        rows,
        output,
        model,
        tokenizer,
        options,
        identity=identity,
        title=export.name,
        window=run.max_tokens,
        teachers=teachers,
        overwrite=overwrite,
        callbacks=callbacks,
    )


def train_rows(
    rows: Sequence[Row],
    output: Path,
    model: Any,
    tokenizer: Any,
    options: TrainOptions,
    *,
    identity: Mapping[str, str],
    title: str = "rows",
    window: int = 0,
    teachers: Mapping[str, TeacherMap] | None = None,
    overwrite: bool = False,
    callbacks: Sequence[Any] = (),
) -> TrainReport:
    """As :func:`train`, from rows in memory; ``identity`` is what they and the model are named by."""
    trainer_class = _trainer_class()
    if options.objective not in OBJECTIVES:
        raise UsageError(f"objective {options.objective!r} does not exist. Objectives: {', '.join(OBJECTIVES)}.")
    if options.objective == "attention" and not teachers:
        raise UsageError("the objective 'attention' needs stored maps. Give the run that holds them: --teacher RUN.")
    layers = _layers(rows, options, model)
    longest = max(len(row["input_ids"]) for row in rows)
    if window and not options.max_tokens and longest > window:
        raise ModelError(
            f"a row has {longest} tokens, the model's window is {window}. Cut rows with --max-tokens {window},"
            " or select parts of the chains."
        )
    steps = options.steps or -(-len(rows) // (options.batch * options.accumulate))
    settings = asdict(options) | {"steps": steps, "layers": list(layers)}
    fingerprint = hashlib.sha256(
        json.dumps([dict(identity), settings, _teacher_digest(teachers)], sort_keys=True).encode()
    ).hexdigest()
    known = _read(output / "train.json")
    if overwrite and output.exists() and (known or not any(output.iterdir())):
        shutil.rmtree(output)
        known = None
    checkpoints = output / "checkpoints"
    # a start that failed, or that ended before its first checkpoint, leaves nothing to keep
    nothing = known is not None and not known.get("finished") and not any(checkpoints.glob("*"))
    if nothing:
        known = None
    if known is not None and known["fingerprint"] != fingerprint:
        raise UsageError(
            f"{output} holds another training (of {known['title']}). Choose another folder, or add --overwrite."
        )
    if known is None and not nothing and output.exists() and any(output.iterdir()):
        raise UsageError(f"{output} is not empty. Choose another folder for the adapter.")
    if known is not None and known.get("finished"):
        return _report(output, known, finished_before=True)
    output.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        "fingerprint": fingerprint,
        "title": title,
        "identity": dict(identity),
        "options": settings,
    }
    _write(output / "train.json", record)

    data = dataset(rows, options.max_tokens)
    _forget_gguf(model)
    last = _last_checkpoint(checkpoints)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations between transformers, PEFT and TRL, nothing a user can act on
        peft_model = _with_adapter(model, options, layers)
        trainer = trainer_class(
            peft_model,
            _arguments(checkpoints, steps, options),
            data,
            tokenizer,
            options=options,
            layers=layers,
            teachers=teachers or {},
            callbacks=list(callbacks),
        )
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    losses = [(int(entry["step"]), float(entry["loss"])) for entry in trainer.state.log_history if "loss" in entry]
    lost = next((step for step, loss in losses if not math.isfinite(loss)), None)
    if lost is not None:
        raise ModelError(
            f"the loss is no longer a number at step {lost}, so there is nothing to keep. Train with a smaller --learning-rate "
            f"(this was {options.learning_rate:g}), into another folder or with --overwrite"
        )
    peft_model.save_pretrained(output, safe_serialization=True)
    record |= {
        "finished": True,
        "steps": int(trainer.state.global_step),
        "rows": len(rows),
        "tokens": sum(len(ids) for ids in data["input_ids"]),
        "losses": losses,
        "layers": list(layers),
        "trainable": sum(p.numel() for p in peft_model.parameters() if p.requires_grad),
        "resumed": int(last.name.rpartition("-")[2]) if last else 0,
        "adapter_sha256": sha256(output / "adapter_model.safetensors"),
    }
    _write(output / "train.json", record)
    write_atomic(output / "README.md", _card(record))
    return _report(output, record)


def _trainer_class() -> Any:
    """The trainer. Raises MissingPackageError when PEFT or TRL is not installed."""
    try:
        import peft  # noqa: F401
        from transformers import PrinterCallback
        from trl import SFTTrainer
    except ImportError as error:
        raise MissingPackageError(f"training needs PEFT and TRL ({error}). Type: pip install 'trails[train]'") from None

    class WeightedTrainer(SFTTrainer):  # type: ignore[misc]
        """SFTTrainer whose loss uses the weight of every token, and the stored maps where asked."""

        def __init__(
            self,
            model: Any,
            arguments: Any,
            data: Any,
            tokenizer: Any,
            *,
            options: TrainOptions,
            layers: Sequence[int],
            teachers: Mapping[str, TeacherMap],
            callbacks: list[Any],
        ) -> None:
            self.trails_options, self.trails_layers, self.trails_teachers = options, tuple(layers), teachers
            pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
            collator = Collator(pad, bins=options.objective == "attention")
            super().__init__(
                model,
                arguments,
                train_dataset=data,
                data_collator=collator,
                processing_class=tokenizer,
                callbacks=callbacks,
            )
            self.remove_callback(PrinterCallback)  # it writes the loss to standard output
            # the loss below is divided by the labels of the whole accumulated batch
            self.loss_is_scaled_for_ga = True

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            """Sum of weight · loss over labelled tokens, over their number in the accumulated batch."""
            options = self.trails_options
            predicts, targets, weights = shifted(inputs["labels"], inputs["loss_weights"])
            count = num_items_in_batch if num_items_in_batch is not None else max(int(predicts.sum()), 1)
            forward = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "use_cache": False}
            base = self.accelerator.unwrap_model(model).get_base_model()
            if options.objective == "attention":
                with tapped(inputs["bins"]) as masses, labelled_logits(base, predicts):
                    outputs = model(**forward)
                teachers = [self.trails_teachers.get(chain) for chain in inputs["chains"]]
                loss = attention_loss(masses, inputs["spans"], teachers, self.trails_layers)
                if self.args.gradient_accumulation_steps > 1:
                    loss = loss / self.args.gradient_accumulation_steps
            else:
                with labelled_logits(base, predicts):
                    outputs = model(**forward)
                loss = torch.zeros((), device=predicts.device)
            if options.objective != "attention" or options.lm_share:
                objective: Objective = "lm" if options.objective == "attention" else options.objective
                nll = token_nll(outputs.logits[0], targets)
                share = options.lm_share if options.objective == "attention" else 1.0
                loss = loss + share * token_loss(nll, weights, objective).sum() / count
            return (loss, outputs) if return_outputs else loss

        def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            """As the trainer does; TRL's own metrics are not computed here."""
            kept = {name: value for name, value in logs.items() if name in _LOGGED}
            super(SFTTrainer, self).log(kept, *args, **kwargs)

    return WeightedTrainer


_LOGGED = frozenset({"loss", "grad_norm", "learning_rate", "epoch", "train_runtime", "train_loss"})


def _arguments(folder: Path, steps: int, options: TrainOptions) -> Any:
    from trl import SFTConfig

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return SFTConfig(
            output_dir=str(folder),
            max_steps=steps,
            per_device_train_batch_size=options.batch,
            gradient_accumulation_steps=options.accumulate,
            learning_rate=options.learning_rate,
            lr_scheduler_type=options.schedule,
            warmup_steps=options.warmup_steps,
            max_grad_norm=options.max_grad_norm,
            weight_decay=0.0,
            seed=options.seed,
            data_seed=options.seed,
            train_sampling_strategy="sequential",
            remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            packing=False,
            max_length=None,
            save_strategy="steps" if options.checkpoint_every else "no",
            save_steps=options.checkpoint_every or 500,
            logging_steps=1,
            logging_nan_inf_filter=False,  # a loss that is no number is not shown as 0
            report_to=[],
            disable_tqdm=True,
            bf16=False,
            gradient_checkpointing=False,
            dataloader_num_workers=0,
            dataloader_pin_memory=False,
            use_cpu=not torch.cuda.is_available(),
        )


def _with_adapter(model: Any, options: TrainOptions, layers: Sequence[int]) -> Any:
    """The model with a fresh LoRA adapter in the chosen layers; nothing else is trainable."""
    from peft import LoraConfig, get_peft_model

    name = options.targets or ("channels" if options.objective == "attention" else "all")
    targets = TARGETS.get(name) or tuple(part.strip() for part in name.split(","))
    if targets == "all-linear" and layers:  # PEFT wants module names where layers are chosen
        targets = tuple(_linear_names(model))
    if options.objective == "attention":
        install()
        model.set_attn_implementation(BINNED)
    torch.manual_seed(options.seed)
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        layers_to_transform=list(layers) or None,
        task_type="CAUSAL_LM",
        bias="none",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        known = ", ".join(_linear_names(model))
        raise UsageError(f"targets {name!r} do not fit this model ({error}). Modules: {known}.") from None


def _forget_gguf(model: Any) -> None:
    """Take the mark of a GGUF origin off a model whose weights are plain floats, or the trainer takes it for quantised."""
    quantizer = getattr(model, "hf_quantizer", None)
    method = str(getattr(getattr(quantizer, "quantization_config", None), "quant_method", "")).lower()
    if method.endswith("gguf") and all(parameter.is_floating_point() for parameter in model.parameters()):
        model.hf_quantizer = None
        model.is_quantized = False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config


def check_adapter(folder: Path) -> Path:
    """The folder if it holds a PEFT adapter in safetensors. Raises ModelError that says what is missing or damaged."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise ModelError(
                f"{folder} has no {name}, so it is no adapter. Give the folder that training wrote: trails train"
            )
    for name in ("adapter_config.json", "train.json"):
        _read(folder / name)
    weights = folder / "adapter_model.safetensors"
    try:
        with safe_open(weights, "pt"):
            pass
    except (OSError, SafetensorError) as error:
        raise _damaged(weights, error) from None
    return folder


def _damaged(path: Path, error: Exception) -> ModelError:
    return ModelError(f"{path} is damaged ({error}). Train anew, into another folder: trails train EXPORT -o FOLDER")


def put_adapter(model: Any, folder: Path, name: str) -> Any:
    """The model with the adapter of a folder in use, beside those it has already; a PEFT model.

    Raises ModelError when the folder holds no adapter.
    """
    from peft import PeftModel

    check_adapter(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if hasattr(model, "load_adapter") and hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
            model.load_adapter(str(folder), adapter_name=name)
        else:
            model = PeftModel.from_pretrained(model, str(folder), adapter_name=name)
    model.set_adapter(name)
    return model


def _linear_names(model: Any) -> list[str]:
    """Last parts of the names of the decoder's linear modules (without the head), sorted."""
    head = model.get_output_embeddings()
    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and module is not head
        }
    )


def _layers(rows: Sequence[Row], options: TrainOptions, model: Any) -> tuple[int, ...]:
    """Layers with an adapter: the option, else what every row of the export names. Empty for all."""
    count = int(model.config.get_text_config().num_hidden_layers)
    if options.layers is not None:
        layers = tuple(sorted(set(options.layers)))
    else:
        found = {tuple(row.get("layers", ())) for row in rows}
        if len(found) > 1:
            raise UsageError("the rows of the export name different layers. Choose with --layers.")
        layers = found.pop()
    if any(not 0 <= layer < count for layer in layers):
        raise UsageError(f"layers {', '.join(map(str, layers))} do not exist. This model has layers 0 to {count - 1}.")
    return layers


def weight_change(model: Any) -> dict[int, float]:
    """Frobenius norm of what the adapter adds to each layer's weights; 0 exactly where there is no adapter.

    ``model`` is a PEFT model. Layers are numbered from 0.
    """
    import re

    count = int(model.config.get_text_config().num_hidden_layers)
    found = dict.fromkeys(range(count), 0.0)
    with torch.no_grad():
        for name, module in model.named_modules():
            if hasattr(module, "get_delta_weight") and getattr(module, "lora_A", None):
                layer = re.search(r"\.(?:layers|h|blocks)\.(\d+)\.", name)
                if layer:
                    for adapter in module.lora_A:
                        found[int(layer[1])] += float(module.get_delta_weight(adapter).float().pow(2).sum())
    return {layer: value**0.5 for layer, value in found.items()}


def _teacher_digest(teachers: Mapping[str, TeacherMap] | None) -> str:
    digest = hashlib.sha256()
    for chain in sorted(teachers or {}):
        assert teachers is not None
        digest.update(chain.encode())
        digest.update(teachers[chain].step_attention.tobytes())
    return digest.hexdigest() if teachers else ""


def _last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written completely (its trainer state is written last but one, its RNG state after)."""
    found = [
        path
        for path in folder.glob("checkpoint-*")
        if path.name.rpartition("-")[2].isdigit() and (path / "trainer_state.json").is_file()
    ]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise _damaged(path, error) from None


def _write(path: Path, record: Mapping[str, Any]) -> None:
    write_atomic(path, json.dumps(record, ensure_ascii=False, indent=1, sort_keys=True) + "\n")


def _report(output: Path, record: Mapping[str, Any], *, finished_before: bool = False) -> TrainReport:
    checkpoints = {
        int(path.name.rpartition("-")[2]): path for path in sorted((output / "checkpoints").glob("checkpoint-*"))
    }
    return TrainReport(
        adapter=output,
        steps=record["steps"],
        rows=record["rows"],
        tokens=record["tokens"],
        losses=tuple((int(step), float(loss)) for step, loss in record["losses"]),
        checkpoints=checkpoints | {record["steps"]: output},
        layers=tuple(record["layers"]),
        trainable=record["trainable"],
        resumed=record["resumed"],
        finished_before=finished_before,
    )


def _card(record: Mapping[str, Any]) -> str:
    """The adapter's card: what it was trained on, by hash, and how."""
    identity, options = record["identity"], record["options"]
    lines = [
        "---",
        "library_name: peft",
        "tags:",
        "- lora",
        "- trails",
        f"base_model: {identity.get('model', '')}",
        "---",
        "",
    ]
    lines += [f"# LoRA adapter trained on {record['title']}", "", "| | |", "|---|---|"]
    lines += [f"| export, SHA-256 | `{identity.get('export', 'rows in memory')}` |"]
    lines += [f"| base model | {identity.get('model', '')}, weights `{identity.get('revision', '')}` |"]
    lines += [f"| adapter, SHA-256 | `{record['adapter_sha256']}` |"]
    lines += [f"| rows, tokens | {record['rows']}, {record['tokens']} |", f"| steps | {record['steps']} |"]
    layers = ", ".join(map(str, record["layers"])) or "all"
    lines += [f"| layers | {layers} (the others are unchanged) |", f"| trainable parameters | {record['trainable']} |"]
    lines += [f"| {name} | {options[name]} |" for name in sorted(options) if name not in ("layers", "steps")]
    if record["losses"]:
        (first, a), (last, b) = record["losses"][0], record["losses"][-1]
        lines += [f"| loss at step {first} and {last} | {a:.4f}, {b:.4f} |"]
    lines += [
        "",
        "What the training did, and what it damaged, is not in these numbers. Measure it, beside its noise floor:",
        "",
        "    trails diff --adapter FOLDER",
        "",
    ]
    return "\n".join(lines)


def loss_of(model: Any, batch: Mapping[str, Tensor], objective: Objective = "lm") -> Tensor:
    """Loss of one batch as the trainer computes it, for a model without an adapter (for checks)."""
    predicts, targets, weights = shifted(batch["labels"], batch["loss_weights"])
    with labelled_logits(model, predicts):
        outputs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    return token_loss(token_nll(outputs.logits[0], targets), weights, objective).sum() / max(len(targets), 1)
