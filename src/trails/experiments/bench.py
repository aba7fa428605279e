"""One model on one device: rows from chains, training from a fresh adapter, and the measures every experiment reports."""

from __future__ import annotations

import copy
import fcntl
import io
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trails.errors import UsageError
from trails.evaluate.probe import Probe, continuations, reduce_logits, repetition
from trails.experiments.corpus import Corpus, grams_of
from trails.experiments.scale import Metrics, Scale
from trails.export.split import GRAM, grams
from trails.measure import open_scorer
from trails.measure.base import MeasureOptions, Segmented
from trails.measure.context import ContextPolicy, Contexts
from trails.platform.arrays import Doubles
from trails.schema import Chain, Trace
from trails.train import TrainOptions
from trails.train.data import Collator, Row
from trails.train.loop import fit
from trails.train.loss import labelled_logits, shifted
from trails.train.many import Adapters, Job, fit_many


class TimeUpError(Exception):
    """The time given to the experiments is over; what was measured is stored."""


@dataclass(frozen=True, slots=True)
class Sets:
    """Training chains of the trained family as rows, and the evaluation rows H, U and D, without a common 13-gram."""

    train: tuple[Row, ...]
    items: tuple[Segmented, ...]
    held_out: tuple[Row, ...]
    unseen: tuple[Row, ...]
    unrelated: tuple[Row, ...]


class Bench:
    """A loaded model. Training never changes it: adapters are taken off again, full training works on a copy."""

    def __init__(
        self,
        model: str = "",
        *,
        device: str = "auto",
        threads: int = 0,
        deadline: float = 0.0,
        policy: ContextPolicy | None = None,
        folder: Path | None = None,
        members: Sequence[str] = (),
    ) -> None:
        """``threads`` limits those of torch (0 = its own choice); ``deadline`` in seconds since the epoch (0 = none);
        ``policy`` says what stands before a chain (None: what a run without options puts there); ``folder`` is where
        :meth:`kept` keeps (None = in memory only); ``members`` are further models, for :meth:`others`.
        """
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        if threads:
            torch.set_num_threads(threads)
        self._asked, self._frame = device, asdict(policy or ContextPolicy())
        self._take(open_scorer(model, device=device, **self._frame))
        self.members = tuple(members)
        self.device = next(self.model.parameters()).device
        self.cuda = self.device.type == "cuda"
        if self.cuda:
            torch.set_float32_matmul_precision("high")
        self.batch_tokens = 16384 if self.cuda else 2048
        self.tile = 4096 if self.cuda else 256
        self.deadline = deadline
        self.encoded: dict[str, tuple[list[int], list[tuple[int, int]]]] = {}
        """Ids and spans of texts that were tokenised before."""
        self.made: dict[str, Row] = {}
        """Rows that several seeds use, by a name that says all they are made of."""
        self.shared: dict[str, Any] = {}
        """What else several seeds use, by such a name."""
        self.folder = folder
        self._kept: dict[str, Doubles] = {}

    def _take(self, scorer: Any) -> None:
        self.scorer = scorer
        self.contexts: Contexts = scorer.contexts
        self.model, self.tokenizer, self.run = scorer.model.module, scorer.model.tokenizer, scorer.run
        self.layers = int(self.model.config.get_text_config().num_hidden_layers)
        self.vocabulary = int(self.model.get_output_embeddings().weight.shape[0])

    def around(self, scorer: Any) -> Bench:
        """A bench around another model on the same device, that shares everything else with this one. Rows are named by their
        chain only (:attr:`made`), so the model has the same tokenizer.
        """
        other = copy.copy(self)
        other._take(scorer)
        return other

    @property
    def hardware(self) -> str:
        """The device in words."""
        return torch.cuda.get_device_name(self.device) if self.cuda else "CPU"

    def check_time(self) -> None:
        """Raise TimeUpError past the deadline; called before each arm."""
        if self.deadline and time.time() > self.deadline:
            raise TimeUpError

    def others(self) -> list[Any]:
        """Scorers of the further models, opened at the first call, in the frame of this bench."""
        if "others" not in self.shared:
            self.shared["others"] = [open_scorer(name, device=self._asked, **self._frame) for name in self.members]
        found: list[Any] = self.shared["others"]
        return found

    def free(self) -> None:
        """Give cached device memory back, for the other processes on the device."""
        if self.cuda:
            torch.cuda.empty_cache()

    def kept(self, name: str, make: Callable[[], Doubles]) -> Doubles:
        """An array that several seeds use: made once, for the other processes and later sessions kept in the folder as
        ``NAME.npy``. The name says all that it is made of. A process waits for another one that makes it; a file that a
        killed process left behind is made again.
        """
        if name not in self._kept:
            if self.folder is None:
                self._kept[name] = make()
                return self._kept[name]
            with (self.folder / f"{name}.npy").open("a+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.seek(0)
                try:
                    found = np.load(io.BytesIO(file.read()), allow_pickle=False)
                except (ValueError, EOFError):
                    found = make()
                    whole = io.BytesIO()
                    np.save(whole, found)
                    file.truncate(0)
                    file.write(whole.getvalue())
                    file.flush()
                    os.fsync(file.fileno())
                self._kept[name] = found
        return self._kept[name]

    # --- rows --------------------------------------------------------------------------------------------------------

    def ids(self, text: str) -> list[int]:
        """Token ids of a piece of text, without what stands before a chain."""
        return self.contexts.text.ids(text, control_tokens=self.contexts.policy.control_tokens)

    def opened(self, question: str, text: str) -> list[int]:
        """What stands before a chain with this question, and the beginning of the chain, as token ids."""
        return [*self.contexts.of(Chain("", "", question, text)).ids, *self.ids(text)]

    def row(self, item: Segmented, max_tokens: int = 0, *, question: bool = True) -> Row:
        """A chain in the frame in which it is measured, its tokens labelled, cut to ``max_tokens`` in all (0 = whole).

        Of a question the first quarter of ``max_tokens`` is kept at most. Without ``question`` the chain stands as one that
        has none. The first token of a row is never a label.
        """
        if not question:
            item = Segmented(replace(item.chain, question="", messages=""), item.steps)
        return self.contexts.row(item, max_tokens=max_tokens, max_question=max_tokens // 4).record()

    def ids_row(
        self,
        ids: Sequence[int],
        context: Sequence[int] = (),
        *,
        chain: str = "",
        spans: list[dict[str, Any]] | None = None,
        weights: Sequence[float] | None = None,
    ) -> Row:
        """A row of token ids; every token of ``ids`` is a label, except the first of a row."""
        whole = [*context, *ids]
        labels = [-100] * len(context) + list(ids)
        if labels and not context:
            labels[0] = -100
        given = [0.0] * len(context) + list(weights if weights is not None else [1.0] * len(ids))
        return {
            "input_ids": whole,
            "labels": labels,
            "loss_weights": [w if label != -100 else 0.0 for w, label in zip(given, labels, strict=True)],
            "step_spans": spans or [{"step": 0, "start": len(context), "end": len(whole), "role": "NONE"}],
            "offset": len(context),
            "chain": chain,
            "layers": [],
        }

    def sets(self, corpus: Corpus, scale: Scale, seed: int, train: int) -> Sets:
        """``train`` chains to train on and ``scale.evaluate`` rows each of H, U and D; chains and H from the seed's own block.

        At least a third of the trained family is held out of training however many chains are asked for.
        """
        wanted = scale.evaluate
        family = corpus.block(corpus.roles.trained, seed, train + wanted + wanted // 4)
        train = max(1, min(train, len(family) - min(wanted, len(family) // 3 + 1)))
        items = tuple(family[:train])
        rows = tuple(self.row(item, scale.max_tokens) for item in items)
        taken = [row["input_ids"] for row in rows]

        found = Sets(
            rows,
            items,
            self.apart(family[train:], wanted, taken, scale.max_tokens),
            self.apart(corpus.family(corpus.roles.unseen, seed), scale.evaluate, taken, scale.max_tokens),
            self.apart(corpus.unrelated(seed), scale.evaluate, taken, scale.max_tokens),
        )
        for name, part in (("H", found.held_out), ("U", found.unseen), ("D", found.unrelated)):
            if not part:
                raise UsageError(
                    f"no text is left for {name}: every candidate shares a run of 13 tokens with the {len(rows)} "
                    f"training "
                    f"chains of {corpus.roles.trained!r}. Give more chains: --data PATH"
                )
        return found

    def apart(
        self, candidates: Iterable[Segmented], count: int, taken: Sequence[Sequence[int]], max_tokens: int
    ) -> tuple[Row, ...]:
        """Rows of the first ``count`` candidates that share no 13-gram with the rows ``taken``."""
        found: list[Row] = []
        known = grams_of(taken)
        for item in candidates:
            if len(found) == count:
                break
            row = self.row(item, max_tokens)
            if len(row["input_ids"]) >= 8 and not (grams(row["input_ids"], GRAM) & known):
                found.append(row)
        return tuple(found)

    def shortened(self, item: Segmented, max_tokens: int) -> Segmented:
        """The chain's leading steps that fit into ``max_tokens`` with its question, and at least one step (cut if need be)."""
        whole = self.contexts.row(item)
        room, encoded = max_tokens - len(whole.context), whole.tokens
        if len(encoded) <= room:
            return item
        limit = int(encoded.end[min(max(room, 8), len(encoded)) - 1])
        kept = tuple(step for step in item.steps if step.end <= limit) or (replace(item.steps[0], end=limit),)
        chain = replace(
            item.chain,
            text=item.chain.text[: kept[-1].end],
            boundaries=tuple(b for b in item.chain.boundaries if b < kept[-1].end),
        )
        return Segmented(chain, kept)

    # --- training ----------------------------------------------------------------------------------------------------

    def options(self, scale: Scale, steps: int, seed: int, **changes: Any) -> TrainOptions:
        """Training options shared by all arms: LoRA of rank 8 on all linear layers, constant learning rate 1e-3."""
        return replace(
            TrainOptions(steps=steps, batch=scale.batch, learning_rate=1e-3, rank=8, alpha=16, layers=(), seed=seed),
            **changes,
        )

    @contextmanager
    def trained(
        self,
        rows: Sequence[Row],
        options: TrainOptions,
        *,
        at: Sequence[int] = (),
        on: Callable[[int, Any], None] | None = None,
        full: bool = False,
    ) -> Iterator[tuple[Any, list[float]]]:
        """The trained model and its losses by step; the base is as before afterwards. ``on`` is called after steps ``at``."""
        self.check_time()
        losses: list[float] = []

        def step(number: int, loss: float, model: Any) -> None:
            losses.append(loss)
            if on is not None and number in at:
                on(number, model)

        model = copy.deepcopy(self.model) if full else self.model
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                trained = fit(model, rows, options, on_step=step, full=full)
            yield trained, losses
        finally:
            if not full:
                self._take_off(model)
            model = None

    def _take_off(self, model: Any) -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer

        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, BaseTunerLayer):
                    setattr(module, name, child.get_base_layer())
        if hasattr(model, "peft_config"):
            del model.peft_config
        model.eval()

    @contextmanager
    def side_by_side(
        self,
        feeds: Mapping[str, Sequence[Row]],
        rates: Mapping[str, float],
        options: TrainOptions,
        *,
        at: Sequence[int] = (),
        on: Callable[[int, Adapters], None] | None = None,
        shapes: Mapping[str, tuple[tuple[int, ...], int]] | None = None,
        start: Tensor | None = None,
        feed: Callable[[int, list[list[Row]], Adapters], list[list[Row]]] | None = None,
    ) -> Iterator[tuple[Adapters, dict[str, list[float]]]]:
        """One adapter for each arm, trained together; within the block they are in use. Also the losses by arm and step.

        All arms of one shape begin with the same weights, those of ``start`` (P,) if given. ``on`` is called after steps
        ``at``, with the adapters in use. ``shapes`` are the layers (1 … L, empty for all) and the rank of arms that differ
        from the options. ``feed`` makes the rows of a step, as :func:`trails.train.many.fit_many` says.
        """
        self.check_time()
        losses: dict[str, list[float]] = {arm: [] for arm in feeds}

        def step(number: int, found: list[float], adapters: Adapters) -> None:
            for arm, loss in zip(feeds, found, strict=True):
                losses[arm].append(loss)
            if on is not None and number in at:
                on(number, adapters)

        shapes = shapes or {}
        jobs = [
            Job(rows, options.seed, rates[arm], *shapes.get(arm, ((), 0)), start=start) for arm, rows in feeds.items()
        ]
        with fit_many(self.model, jobs, options, on_step=step, feed=feed, tokens=self.batch_tokens // 2) as adapters:
            yield adapters, losses

    # --- measures ----------------------------------------------------------------------------------------------------

    def probe(self, model: Any, rows: Sequence[Row], *, compare: bool = False) -> list[Probe]:
        """Surprisal and entropy of the labelled tokens, and KL(base ‖ model) where asked (also after full training)."""
        found: dict[int, Probe] = {}
        for chosen, batch in self.batches(rows):
            predicts, targets, _ = shifted(batch["labels"], batch["loss_weights"])
            with torch.inference_mode():
                after = self.logits(model, batch, predicts)
                before = None
                if compare:
                    with model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext():
                        before = self.logits(
                            model if hasattr(model, "disable_adapter") else self.model, batch, predicts
                        )
                values = reduce_logits(after, before, targets, self.tile)
            owner = torch.nonzero(predicts)[:, 0].cpu().numpy()
            for place, index in enumerate(chosen):
                mine = owner == place
                found[index] = Probe(values[0][mine], values[1][mine], values[2][mine] if compare else None)
        return [found[i] for i in range(len(rows))]

    def probe_each(self, adapters: Adapters, rows: Sequence[Row], *, compare: bool = False) -> list[list[Probe]]:
        """:meth:`probe` for every adapter in use, all on the same rows; the base is computed once."""
        found: list[dict[int, Probe]] = [{} for _ in range(adapters.count)]
        for chosen, batch in self.batches(rows, max(self.batch_tokens // adapters.count, 1)):
            predicts, targets, _ = shifted(batch["labels"], batch["loss_weights"])
            several = {k: v.repeat(adapters.count, 1) for k, v in batch.items()}
            with torch.inference_mode():
                before = None
                if compare:
                    adapters.set(on=False)
                    before = self.logits(self.model, batch, predicts)
                adapters.set()
                after = self.logits(self.model, several, predicts.repeat(adapters.count, 1))
                owner = torch.nonzero(predicts)[:, 0].cpu().numpy()
                for number, logits in enumerate(torch.split(after, len(targets))):
                    values = reduce_logits(logits, before, targets, self.tile)
                    for place, index in enumerate(chosen):
                        mine = owner == place
                        found[number][index] = Probe(
                            values[0][mine], values[1][mine], values[2][mine] if compare else None
                        )
        return [[one[i] for i in range(len(rows))] for one in found]

    def batches(self, rows: Sequence[Row], tokens: int = 0) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """Rows by length in padded batches of at most ``tokens`` (0 = :attr:`batch_tokens`) on the device."""
        limit = tokens or self.batch_tokens
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
        start = 0
        while start < len(order):
            stop = start + 1
            while stop < len(order) and (stop + 1 - start) * len(rows[order[stop]]["input_ids"]) <= limit:
                stop += 1
            chosen = order[start:stop]
            batch = Collator()([rows[i] for i in chosen])
            yield chosen, {k: v.to(self.device) for k, v in batch.items() if torch.is_tensor(v)}
            start = stop

    def logits(self, model: Any, batch: dict[str, Tensor], predicts: Tensor) -> Tensor:
        """Logits (N, V) of the marked positions of a batch."""
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        with labelled_logits(base, predicts):
            out = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        logits: Tensor = out.logits[0]
        return logits

    def measure(self, model: Any, sets: Sets) -> Metrics:
        """NLL and KL from the base on H, U and D, entropy on D; per token, nats."""
        result: Metrics = {}
        for name, rows in (("h", sets.held_out), ("u", sets.unseen), ("d", sets.unrelated)):
            probes = self.probe(model, rows, compare=True)
            result[f"nll_{name}"] = mean(p.nll for p in probes)
            result[f"kl_{name}"] = mean(p.kl for p in probes if p.kl is not None)
            if name != "u":
                result[f"entropy_{name}"] = mean(p.entropy for p in probes)
        return result

    def measure_each(self, adapters: Adapters, sets: Sets) -> list[Metrics]:
        """:meth:`measure` for every adapter in use."""
        found: list[Metrics] = [{} for _ in range(adapters.count)]
        for name, rows in (("h", sets.held_out), ("u", sets.unseen), ("d", sets.unrelated)):
            for one, probes in zip(found, self.probe_each(adapters, rows, compare=True), strict=True):
                one[f"nll_{name}"] = mean(p.nll for p in probes)
                one[f"kl_{name}"] = mean(p.kl for p in probes if p.kl is not None)
                if name != "u":
                    one[f"entropy_{name}"] = mean(p.entropy for p in probes)
        return found

    def base(self, sets: Sets) -> Metrics:
        """The same of the untrained model: KL is 0."""
        result: Metrics = {}
        for name, rows in (("h", sets.held_out), ("u", sets.unseen), ("d", sets.unrelated)):
            probes = self.probe(self.model, rows)
            result[f"nll_{name}"] = mean(p.nll for p in probes)
            result[f"kl_{name}"] = 0.0
            if name != "u":
                result[f"entropy_{name}"] = mean(p.entropy for p in probes)
        return result

    def changes(self, after: Metrics, before: Metrics) -> Metrics:
        """``after`` with the change of every NLL: ``change_h`` is after - before (negative = easier)."""
        return after | {f"change_{n}": after[f"nll_{n}"] - before[f"nll_{n}"] for n in ("h", "u", "d")}

    def repetition(self, model: Any, prompts: Sequence[Sequence[int]], n_tokens: int) -> float:
        """Share of 4-grams of greedy continuations that occurred before in them; mean over prompts."""
        found = continuations(model, prompts, n_tokens)
        return float(np.mean([repetition(tokens) for tokens in found]))

    def repetition_each(self, adapters: Adapters, prompts: Sequence[Sequence[int]], n_tokens: int) -> list[float]:
        """:meth:`repetition` for every adapter in use; prompts have equal lengths."""
        found = continuations(self.model, [*prompts] * adapters.count, n_tokens)  # those of the first adapter first
        values = np.asarray([repetition(tokens) for tokens in found], np.float64)
        return [float(one) for one in values.reshape(adapters.count, -1).mean(1)]

    def hidden_each(self, adapters: Adapters, rows: Sequence[Row], layer: int) -> list[Any]:
        """:meth:`hidden` for every adapter in use."""
        found = self.hidden(self.model, rows, layer, copies=adapters.count)
        return list(found.reshape(adapters.count, len(rows), -1))

    def hidden(self, model: Any, rows: Sequence[Row], layer: int, *, copies: int = 1) -> Any:
        """Mean hidden state of each row's labelled tokens at ``layer`` (0 = input embeddings): (rows, d) float32; with
        ``copies`` adapters in use those of the first adapter first, (copies · rows, d).
        """
        found: dict[int, Any] = {}
        for chosen, one in self.batches(rows, max(self.batch_tokens // copies, 1)):
            batch = {k: v.repeat(copies, 1) for k, v in one.items()}
            with torch.inference_mode():
                out = model(
                    input_ids=batch["input_ids"],
                    attention_mask=batch["attention_mask"],
                    use_cache=False,
                    output_hidden_states=True,
                    logits_to_keep=1,
                )
                mask = (batch["labels"] != -100).float()[..., None]
                states = (out.hidden_states[layer].float() * mask).sum(1) / mask.sum(1).clamp(min=1)
            for place, state in enumerate(states.cpu().numpy()):
                found[place // len(chosen) * len(rows) + chosen[place % len(chosen)]] = state
        return np.stack([found[i] for i in range(copies * len(rows))])

    @contextmanager
    def as_it_is(self) -> Iterator[None]:
        """While inside, the scorer measures by the model as it is now: with adapters where they are in use."""
        model = self.scorer.model
        model.changes += 1  # a pass that is replayed from a CUDA graph, or compiled, would not see them
        try:
            yield
        finally:
            model.changes -= 1

    def traces(self, items: Sequence[Segmented]) -> list[Trace]:
        """Every measure of chains, in their order, by the model as it is now."""
        with self.as_it_is():
            found: list[Trace] = self.scorer.measure(items, MeasureOptions(top_k=0))
        return found

    def alone(self, adapters: Adapters) -> Iterator[int]:
        """The numbers of the adapters in use, each of them while it alone is in use."""
        whole, count = adapters.flat, adapters.count
        try:
            for index in range(count):
                adapters.flat, adapters.count = whole[index : index + 1].detach(), 1
                adapters.set()
                with self.as_it_is():
                    yield index
        finally:
            adapters.flat, adapters.count = whole, count
            adapters.set()

    def traces_each(self, adapters: Adapters, items: Sequence[Segmented]) -> list[list[Trace]]:
        """:meth:`traces` for every adapter in use, one after another."""
        return [self.traces(items) for _ in self.alone(adapters)]

    # --- volatility --------------------------------------------------------------------------------------------------

    def volatility(self, context: Sequence[int], ids: Sequence[int], edited: Sequence[Sequence[int]]) -> list[float]:
        """Mean Jensen–Shannon divergence (nats, at most ln 2) between the predictions of the base for ``ids`` and for each
        edited row of the same length, at the tokens they have in common; 0 before the first edit.
        """
        with torch.inference_mode():
            at = slice(len(context), len(context) + len(ids))
            base = self._log_p([*context, *ids])[at]
            result = []
            per_pass = max(1, self.batch_tokens // (4 * (len(context) + len(ids))))
            for start in range(0, len(edited), per_pass):
                block = [list(row) for row in edited[start : start + per_pass]]
                tokens = torch.tensor([[*context, *row] for row in block], device=self.device)
                logits = self.model(input_ids=tokens, use_cache=False).logits[:, at]
                for place, row in enumerate(block):
                    same = torch.tensor([a == b for a, b in zip(ids, row, strict=True)], device=self.device)
                    total = torch.zeros((), device=self.device, dtype=torch.float64)
                    for begin in range(0, len(ids), self.tile):
                        part = slice(begin, begin + self.tile)
                        log_q = torch.log_softmax(logits[place, part].float(), -1)
                        log_p = base[part]
                        middle = torch.logaddexp(log_p, log_q) - float(np.log(2))
                        js = 0.5 * ((log_p.exp() * (log_p - middle)).sum(-1) + (log_q.exp() * (log_q - middle)).sum(-1))
                        total += js.clamp(min=0).double()[same[part]].sum()
                    result.append(float(total) / max(int(same.sum()), 1))
        return result

    def _log_p(self, ids: Sequence[int]) -> Tensor:
        logits = self.model(input_ids=torch.tensor([list(ids)], device=self.device), use_cache=False).logits[0]
        return torch.log_softmax(logits.float(), -1)

    def likely(self, context: Sequence[int], ids: Sequence[int], k: int) -> Any:
        """The ``k`` most likely tokens at every place of ``ids``, (n, k); the first place of a row without context has none
        of its own and takes those of the second.
        """
        with torch.inference_mode():
            log_p = self._log_p([*context, *ids])
            top = log_p.topk(min(k, log_p.shape[-1]), -1).indices.cpu().numpy()
        places = np.maximum(np.arange(len(context), len(context) + len(ids)) - 1, 0)
        return top[places]


def mean(parts: Iterable[Any]) -> float:
    """Mean over all values of several arrays, in float64; NaN for none."""
    whole = [np.asarray(part, np.float64) for part in parts]
    joined = np.concatenate(whole) if whole else np.zeros(0)
    return float(joined.mean()) if len(joined) else float("nan")
