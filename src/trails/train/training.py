"""The training itself: TRL's trainer with the weights, the order and the stored maps of an export."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from trails.errors import MissingPackageError, ModelError, UsageError
from trails.measure.load import adapter_digest
from trails.measure.packaged import quiet
from trails.platform.files import write_atomic
from trails.platform.text import counted
from trails.schema import Run
from trails.train.adapter import chosen_layers, forget_gguf, with_adapter
from trails.train.attempts import Attempts
from trails.train.attention import TeacherMap
from trails.train.check import NOTHING_TO_LEARN, check_model, export_head, held_training, identity_of, other_training
from trails.train.data import Collator, Row, cut_rows, dataset, load_rows, losses_in, shuffled_steps
from trails.train.journal import Journal, read_journal, replayed
from trails.train.loss import batch_loss
from trails.train.options import LEFT_OUT, TrainOptions, TrainReport, check_options, said


def train(
    export: Path,
    output: Path,
    model: Any,
    tokenizer: Any,
    run: Run,
    options: TrainOptions | None = None,
    *,
    teachers: Mapping[str, TeacherMap] | None = None,
    force: bool = False,
    overwrite: bool = False,
    on_step: Callable[[int, int, float], None] | None = None,
    callbacks: Sequence[Any] = (),
    keep: Collection[str] | None = None,
    replay: Path | None = None,
    replay_at_random: bool = False,
) -> TrainReport:
    """Train an adapter for ``model`` (a causal language model with its ``tokenizer``; ``run`` names it) on an export.

    Continues by itself where an interrupted training with the same export, model and options stopped; with options that
    differ it raises UsageError unless ``overwrite``, and for an export of other weights unless ``force``. ``teachers`` are
    stored maps by chain, for the attention objective. ``on_step`` is told step, number of steps and loss. ``model`` is
    changed: it carries the adapter afterwards. ``keep`` names the chains whose rows are trained; None for all. ``replay`` is a
    journal whose transitions are fed again behind the rows, or with ``replay_at_random`` as many others, the control.
    """
    options = options or TrainOptions()
    head = export_head(export)
    check_model(head, run, force=force)
    counts: Counter[str] = Counter()
    rows = load_rows(export, counts)
    if keep is not None:
        rows = [row for row in rows if row["chain"] in keep]
    if options.shuffle_steps:
        rows = shuffled_steps(rows, options.seed)
    of_model = {"model": run.model, "revision": run.revision, "adapter": run.adapter}
    identity = identity_of(head, keep=keep, replay=replay, replay_at_random=replay_at_random) | of_model
    if replay is not None:
        again = replayed(rows, read_journal(replay), at_random=replay_at_random, seed=options.seed)
        identity["replay"] = f"{len(again)} {identity['replay']}"
        rows = [*rows, *again]
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
        on_step=on_step,
        callbacks=callbacks,
        counts=counts,
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
    on_step: Callable[[int, int, float], None] | None = None,
    callbacks: Sequence[Any] = (),
    counts: Counter[str] | None = None,
) -> TrainReport:
    """As :func:`train`, from rows in memory; ``identity`` is what they and the model are named by, ``counts`` what was left out
    before (:func:`trails.train.data.load_rows`)."""
    trainer_class = _trainer_class()
    check_options(options)
    if options.objective == "attention" and not teachers and not any(row.get("targets") for row in rows):
        raise UsageError(NOTHING_TO_LEARN)
    layers = chosen_layers(rows, options, model)
    longest = max(len(row["input_ids"]) for row in rows)
    attempts = Attempts.of(tokenizer) if options.objective == "loop" else None
    if window and attempts is not None:
        room = window - min(longest, options.max_tokens or longest) - attempts.most(options)
        if room < 0:
            raise ModelError(
                f"a row with its attempt may have {counted(window - room, 'token')}, the model's window is "
                f"{window}. Write shorter"
                " attempts with --attempt-tokens, or cut rows with --max-tokens"
            )
    if window and not options.max_tokens and longest > window:
        raise ModelError(
            f"a row has {counted(longest, 'token')}, the model's window is {window}. Cut rows with --max-tokens {window},"
            " or select parts of the chains."
        )
    counts = Counter() if counts is None else counts
    given = len(rows)
    rows = cut_rows(rows, options.max_tokens, counts)
    if not rows:
        raise UsageError(
            f"cut to {counted(options.max_tokens, 'token')}, none of {counted(given, 'row')} has a token with loss left. "
            "Write a larger --max-tokens, or export shorter parts."
        )
    steps = options.steps or -(-len(rows) // (options.batch * options.accumulate))
    settings = said(options) | {"steps": steps, "layers": list(layers)}
    fingerprint = hashlib.sha256(
        json.dumps([dict(identity), settings, _teacher_digest(teachers)], sort_keys=True).encode()
    ).hexdigest()
    known = held_training(output, overwrite=overwrite)
    if known is not None and known["fingerprint"] != fingerprint:
        raise other_training(output, known, dict(identity), settings)
    if overwrite and output.exists():
        shutil.rmtree(output)
    checkpoints = output / "checkpoints"
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

    data = dataset(rows)
    forget_gguf(model)
    last = _last_checkpoint(checkpoints)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations between transformers, PEFT and TRL, nothing a user can act on
        peft_model = with_adapter(model, options, layers)
        trainer = trainer_class(
            peft_model,
            trainer_arguments(checkpoints, steps, options),
            data,
            tokenizer,
            options=options,
            layers=layers,
            teachers=teachers or {},
            attempts=attempts,
            journal=Journal(output / JOURNAL, options.journal) if options.journal else None,
            callbacks=[*callbacks, *([_step_callback(on_step)] if on_step else [])],
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
        **_fed(rows, int(trainer.state.global_step), options),
        **{name: counts[name] for name in ("cut", "cut_labels", "emptied", "unlabelled")},
        "losses": losses,
        "layers": list(layers),
        "trainable": sum(p.numel() for p in peft_model.parameters() if p.requires_grad),
        "resumed": int(last.name.rpartition("-")[2]) if last else 0,
        "adapter": adapter_digest(output),
    }
    _write(output / "train.json", record)
    write_atomic(output / "README.md", _card(record))
    return _report(output, record)


def _fed(rows: Sequence[Row], steps: int, options: TrainOptions) -> dict[str, int]:
    """Rows that ``steps`` steps feed, each counted once, and their tokens with loss."""
    seen = min(len(rows), steps * options.batch * options.accumulate)
    return {"seen": seen, "labelled": sum(map(losses_in, rows[:seen]))}


JOURNAL = "journal.jsonl"
"""The journal of a training, beside its adapter."""


def _step_callback(on_step: Callable[[int, int, float], None]) -> Any:
    """A callback of the trainer that tells every step with its loss."""
    from transformers import TrainerCallback

    class Steps(TrainerCallback):  # type: ignore[misc]
        def on_log(self, _: Any, state: Any, __: Any, logs: Mapping[str, float] | None = None, **___: Any) -> None:
            if logs and "loss" in logs:
                on_step(int(state.global_step), int(state.max_steps), float(logs["loss"]))

    return Steps()


def _trainer_class() -> Any:
    """The trainer. Raises MissingPackageError when PEFT or TRL is not installed."""
    try:
        import peft  # noqa: F401
        from transformers import PrinterCallback
        from trl import SFTTrainer
    except ImportError as error:
        raise MissingPackageError(f"training needs PEFT and TRL ({error}). Run: pip install 'trails[train]'") from None

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
            attempts: Attempts | None = None,
            journal: Journal | None = None,
        ) -> None:
            self.trails_options, self.trails_layers, self.trails_teachers = options, tuple(layers), teachers
            self.trails_attempts, self.trails_journal = attempts, journal
            self.trails_at = (-1, 0)
            pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
            collator = Collator(pad, bins=options.objective == "attention", places=journal is not None)
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
            """As :func:`trails.train.loss.batch_loss`."""
            step = int(self.state.global_step) + 1
            self.trails_at = (step, self.trails_at[1] + 1 if self.trails_at[0] == step else 0)
            loss, outputs = batch_loss(
                model,
                self.accelerator.unwrap_model(model).get_base_model(),
                inputs,
                self.trails_options,
                count=num_items_in_batch,
                layers=self.trails_layers,
                teachers=self.trails_teachers,
                attempts=self.trails_attempts,
                at=self.trails_at,
                journal=self.trails_journal,
            )
            return (loss, outputs) if return_outputs else loss

        def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            """As the trainer does; TRL's own metrics are not computed here."""
            kept = {name: value for name, value in logs.items() if name in _LOGGED}
            super(SFTTrainer, self).log(kept, *args, **kwargs)

    return WeightedTrainer


_LOGGED = frozenset({"loss", "grad_norm", "learning_rate", "epoch", "train_runtime", "train_loss"})


def trainer_arguments(folder: Path, steps: int, options: TrainOptions) -> Any:
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
        **{name: int(record.get(name, 0)) for name in ("labelled", "cut", "cut_labels", "emptied", "unlabelled")},
        seen=int(record.get("seen", record["rows"])),  # a record of an earlier version does not say
    )


def _card(record: Mapping[str, Any]) -> str:
    """The adapter's card: what it was trained on, by hash, and how."""
    identity, options = record["identity"], record["options"]
    from huggingface_hub import ModelCardData

    data = ModelCardData(base_model=identity.get("model") or None, library_name="peft", tags=["lora", "trails"])
    lines = ["---", data.to_yaml(), "---", ""]
    lines += [f"# LoRA adapter trained on {record['title']}", "", "| | |", "|---|---|"]
    lines += [f"| export, SHA-256 | `{identity.get('export', 'rows in memory')}` |"]
    lines += [f"| base model | {identity.get('model', '')}, weights `{identity.get('revision', '')}` |"]
    lines += [f"| adapter, its digest in trails status | `{record['adapter']}` |"]
    lines += [f"| rows, tokens | {record['rows']}, {record['tokens']} |", f"| steps | {record['steps']} |"]
    lines += [f"| rows fed, their tokens with loss | {record['seen']}, {record['labelled']} |"]
    lines += [f"| {what} | {record[name]} |" for name, what in LEFT_OUT.items() if record[name]]
    layers = ", ".join(map(str, record["layers"])) or "all"
    lines += [f"| layers | {layers} (the others are unchanged) |", f"| trainable parameters | {record['trainable']} |"]
    lines += [f"| {name} | {options[name]} |" for name in sorted(options) if name not in ("layers", "steps")]
    if record["losses"]:
        (first, a), (last, b) = record["losses"][0], record["losses"][-1]
        lines += [f"| loss at step {first} and {last} | {a:.4f}, {b:.4f} |"]
    lines += [
        "",
        "What the training did, and what it damaged, is not in these numbers. Measure it, with its noise floor:",
        "",
        "    trails diff --adapter FOLDER",
        "",
    ]
    return "\n".join(lines)
