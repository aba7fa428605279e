"""Overlaps, map, gaps, capture and neighbours on real text: cost against a baseline in the same run, and what the controls say.

    python -m benchmarks.analyses DATA [SECTION ...] [--chains 300] [--cache FOLDER]

DATA is a folder with the public data sets (gsm8k/train.jsonl, prontoqa/prontoqa.json, …). Sections without a model: overlaps,
growth, map, near, texts. With the packaged model: gaps, fresh, premises, prontoqa, nearsteps, bridges. Measured traces are kept
in the cache folder and not measured again. Each section prints a goal beside its figure, and negative results as they are.
"""

from __future__ import annotations

import argparse
import itertools
import math
import pickle
import platform
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import processor_seconds
from trails.analyses import bridge, capture, gaps, overlaps, statemap
from trails.analyses.neighbours import PROBES, ROUNDS, WIDTH, nearest_others
from trails.analyses.score import Score, Withheld
from trails.analyses.sequences import (
    SymbolCorpus,
    content_key,
    content_words,
    coverage,
    markov_resample,
    maximal_repeats,
    suffixes,
    text_corpus,
)
from trails.analyses.statistics import auc, bootstrap, within_group_auc
from trails.analyses.whitening import fit_whitening
from trails.measure import open_scorer
from trails.measure.anchors import dependence
from trails.measure.base import MeasureOptions, Segmented
from trails.pipeline import segmented
from trails.readers import read
from trails.schema import Trace

FILES = {
    "gsm8k": "gsm8k/train.jsonl",
    "gsm8k solutions": "gsm8k/model_solutions_sample.jsonl",
    "prontoqa": "prontoqa/prontoqa.json",
    "entailment bank": "entailment_bank/train_task1.jsonl",
    "strategyqa": "strategyqa/train.jsonl",
    "marco-o1": "marco_o1_long/cot_demo.jsonl",
    "russian": "ru_llm_answers/answers.jsonl",
    "bbh": "bbh_cot/model_chains.jsonl",
}


def encoder() -> Callable[[str], tuple[Sequence[int], Sequence[tuple[int, int]]]]:
    """The packaged model's tokenizer, without the model."""
    from tokenizers import Tokenizer

    from trails.measure.packaged import packaged_model

    tokenizer = Tokenizer.from_file(str(packaged_model() / "tokenizer.json"))

    def encode(text: str) -> tuple[Sequence[int], Sequence[tuple[int, int]]]:
        found = tokenizer.encode(text, add_special_tokens=False)
        return found.ids, found.offsets

    return encode


def corpus_of(data: Path, *names: str) -> SymbolCorpus:
    """Tokens of the chains of some data sets."""
    chains = [chain for name in names for chain in read([data / FILES[name]])]
    return text_corpus(chains, encoder(), "packaged")


def timed(work: Callable[[], Any], repeats: int = 3) -> tuple[float, Any]:
    """Smallest processor time of some repeats in seconds, that of child processes included, and the result: what else runs on
    the machine only ever adds.
    """
    best, result = math.inf, None
    for _ in range(repeats):
        start = processor_seconds()
        result = work()
        best = min(best, processor_seconds() - start)
    return best, result


def peak_gb() -> float:
    """Largest resident memory of this process so far, in GB, without that of child processes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def tell(scores: Sequence[Score], withheld: Sequence[Withheld] = ()) -> None:
    """Scores with every control."""
    for score in scores:
        span = f" [{score.interval[0]:.3f}, {score.interval[1]:.3f}]" if score.interval else ""
        print(f"  {score.name}: {score.value:.3f}{span} {score.unit}")
        for control in score.controls:
            span = f" [{control.interval[0]:.3f}, {control.interval[1]:.3f}]" if control.interval else ""
            print(f"      {control.name}: {control.value:.3f}{span}")
    for item in withheld:
        print(f"  no score for {item.name}: {item.reason}")


def resized(corpus: SymbolCorpus, tokens: int, seed: int = 0) -> SymbolCorpus:
    """A corpus of about ``tokens`` tokens: the real one, then order-2 resamples of it until there are enough."""
    parts, offsets, size, draw = [corpus.tokens], [corpus.offsets[1:]], corpus.n_tokens, seed
    while size < tokens:
        new, ends = markov_resample(corpus.tokens, corpus.offsets, 2, draw)
        parts.append(new)
        offsets.append(size + ends[1:])
        size += len(new)
        draw += 1
    bounds = np.concatenate([[0], *offsets]).astype(np.int64)
    keep = int(np.searchsorted(bounds, tokens, side="right"))
    bounds = bounds[: max(keep, 2)]
    size = int(bounds[-1])
    lengths = np.diff(bounds)
    index = np.arange(size) - np.repeat(bounds[:-1], lengths)
    spans = np.stack([index, index + 1], axis=1).astype(np.int32)
    count = len(lengths)
    text = "." * int(lengths.max())
    return SymbolCorpus(
        np.concatenate(parts)[:size],
        bounds,
        tuple(f"c{number:08}" for number in range(count)),
        "packaged",
        spans,
        spans,
        (text,) * count,
        ("",) * count,
        ("resample",) * count,
        np.full(size, np.nan, np.float32),
    )


def section_overlaps(data: Path, args: argparse.Namespace) -> None:
    """Exact overlaps: time against the suffix array alone, memory, and what the controls say on every data set."""
    import pydivsufsort

    corpus = corpus_of(data, "gsm8k", "gsm8k solutions", "strategyqa", "bbh", "prontoqa", "entailment bank")
    chain = corpus.chain_of(np.arange(corpus.n_tokens))
    text = np.zeros(corpus.n_tokens + corpus.n_chains, np.uint16)
    text[np.arange(corpus.n_tokens) + chain] = corpus.tokens + 1
    pydivsufsort.divsufsort(text[:1000])
    alone, _ = timed(lambda: pydivsufsort.divsufsort(text))
    plain = text.astype(np.int32)
    naive, _ = timed(lambda: pydivsufsort.kasai(plain, pydivsufsort.divsufsort(plain)))
    array, found = timed(lambda: suffixes(corpus.tokens, corpus.offsets))
    repeats, _ = timed(lambda: maximal_repeats(corpus, 10, found=found))
    tables, _ = timed(lambda: overlaps._tables("exact", corpus, 10))
    whole, result = timed(lambda: overlaps.exact(corpus), 1)
    print(
        f"{corpus.n_tokens:,} tokens, {corpus.n_chains:,} chains, {len(result.overlaps):,} maximal repeats of >= 10 tokens"
    )
    print(f"  pydivsufsort on 32-bit symbols, suffix array and LCP: {naive:.2f} s")
    print(f"  suffix array alone {alone:.2f} s; with LCP {array:.2f} s; repeats {repeats:.2f} s")
    print(f"  overlaps with texts, ids and places {tables:.2f} s = {tables / alone:.2f}x the suffix array (goal <= 2x)")
    print(f"  and {tables / naive:.2f}x suffix array and LCP on 32-bit symbols")
    print(
        f"  with ten Markov resamples as controls and the interval {whole:.2f} s; peak {peak_gb():.2f} GB (goal <= 1 GB)"
    )
    for name in FILES:
        one = corpus_of(data, name)
        for kind, work in (("exact", overlaps.exact), ("masked", overlaps.masked)):
            result = work(one)
            print(f"{name}, {kind}: {one.n_tokens:,} tokens, {len(result.overlaps):,} overlaps")
            tell(result.scores, result.withheld)


def section_growth(data: Path, args: argparse.Namespace) -> None:
    """Time and memory from 1x to 16x of 655,590 tokens; the larger corpora continue the real one with order-2 resamples.

    The suffix array and its LCP alone stand beside the overlaps: what they lose to larger memory, overlaps lose too. The last
    column is the share of the rate at 1x that is left, divided by the share that the suffix array and its LCP keep.
    """
    import pydivsufsort

    base = corpus_of(data, "gsm8k")

    def plain(corpus: SymbolCorpus) -> Any:
        chain = corpus.chain_of(np.arange(corpus.n_tokens))
        text = np.zeros(corpus.n_tokens + corpus.n_chains, np.uint16)
        text[np.arange(corpus.n_tokens) + chain] = corpus.tokens + 1
        return text

    works: tuple[tuple[str, Callable[[Any], Any], Callable[[SymbolCorpus], Any]], ...] = (
        ("suffix array alone", lambda text: pydivsufsort.divsufsort(text), plain),
        ("suffix array and LCP alone", lambda text: pydivsufsort.kasai(text, pydivsufsort.divsufsort(text)), plain),
        ("exact overlaps", lambda corpus: overlaps._tables("exact", corpus, 10), lambda corpus: corpus),
        ("coverage", lambda corpus: coverage(corpus.tokens, corpus.offsets, 10), lambda corpus: corpus),
        ("map", lambda corpus: statemap.build(corpus, 4, score=False), lambda corpus: corpus),
    )
    first: dict[str, float] = {}
    kept: dict[str, float] = {}
    for factor in (1, 4, 16):
        corpus = resized(base, factor * base.n_tokens)
        for name, work, prepare in works:
            given = prepare(corpus)
            seconds, _ = timed(lambda g=given, w=work: w(g), 3 if factor < 16 else 2)
            rate = corpus.n_tokens / seconds
            first.setdefault(name, rate)
            kept[name] = rate / first[name]
            alone = kept.get("suffix array and LCP alone")
            beside = f" ({kept[name] / alone:.2f} of what suffix array and LCP keep)" if alone else ""
            print(
                f"{name}: {corpus.n_tokens:>10,} tokens {seconds:7.2f} s, {rate / 1e3:7.0f} k tokens/s, "
                f"{kept[name]:.2f} of the rate at 1x{beside}; peak {peak_gb():.2f} GB",
                flush=True,
            )


def section_map(data: Path, args: argparse.Namespace) -> None:
    """The map of a million tokens, and its scores for k = 2 to 5."""
    big = resized(corpus_of(data, "gsm8k"), 1_000_000)
    seconds, found = timed(lambda: statemap.build(big, 4, score=False), 1)
    print(
        f"{big.n_tokens:,} tokens: map {seconds:.1f} s (goal <= 60), {len(found.states):,} states, peak {peak_gb():.2f} GB"
    )
    seconds, found = timed(lambda: statemap.build(big, 4), 1)
    print(f"  with its scores {seconds:.1f} s")
    base = corpus_of(data, "gsm8k")
    for k in (2, 3, 4, 5):
        found = statemap.build(base, k)
        print(
            f"gsm8k, k = {k}: {len(found.states):,} states, {len(found.unitigs):,} unitigs, {len(found.bubbles):,} bubbles"
        )
        tell(found.scores)


def step_states(data: Path, args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Mean hidden state at layer 15 of every GSM8K step of the first chains by hash, (n, 576), and the number of its chain.

    Only the layers up to 15 are run; kept in the cache folder.
    """
    file = args.cache / "step-states.npz"
    if not file.is_file():
        import torch

        from trails.segment.align import assign_tokens

        scorer: Any = open_scorer(device="cpu")
        trunk = scorer.model.module.model
        trunk.layers, trunk.norm = trunk.layers[: STATES[0]], torch.nn.Identity()
        chains = sorted(read([data / FILES["gsm8k"]]), key=lambda chain: content_key("calibration", chain.id, 0))
        states, owner = [], []
        for number, chain in enumerate(chains[: args.state_chains]):
            item = segmented(chain)
            context = [0, *scorer.model.tokenizer(chain.question + "\n", add_special_tokens=False)["input_ids"]]
            found = scorer.model.text.encode(chain.text, chain.id)
            spans = [(step.start, step.end) for step in item.steps]
            steps = assign_tokens(spans, np.stack((found.start, found.end), axis=1))
            with torch.inference_mode():
                ids = torch.tensor([[*context, *found.ids.tolist()]])
                hidden = trunk(input_ids=ids, use_cache=False).last_hidden_state[0, len(context) :].numpy()
            for first, stop in steps.tolist():
                if stop > first:
                    states.append(hidden[first:stop].mean(axis=0))
                    owner.append(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, states=np.stack(states).astype(np.float32), chain=np.array(owner))
    with np.load(file) as kept:
        return kept["states"], kept["chain"]


def many_steps(states: np.ndarray, chain: np.ndarray, count: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """The real steps, then copies of them, each moved by ``noise`` / sqrt(2) times the difference of two random steps: noise
    with the covariance of the data. Five copies make a chain.
    """
    rng = np.random.default_rng(0)
    more = count - len(states)
    result = np.concatenate([states, states[rng.integers(0, len(states), more)]])
    for start in range(len(states), count, 65_536):
        stop = min(start + 65_536, count)
        one, two = rng.integers(0, len(states), (2, stop - start))
        result[start:stop] += np.float32(noise / math.sqrt(2)) * (states[one] - states[two])
    return result, np.concatenate([chain, chain.max() + 1 + np.arange(more) // 5])


def made_steps(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Random vectors (n, 576) of independent directions, four of them a chain, and the number of its chain."""
    made = np.random.default_rng(7).standard_normal((count, 576)).astype(np.float32)
    return made, np.arange(count) // 4


def whitened_in_place(raw: np.ndarray) -> np.ndarray:
    """Whitened vectors in the memory of the raw ones: of a million there is no room for both and what lies between."""
    whitening = fit_whitening(raw)
    width = whitening.components.shape[1]
    for start in range(0, len(raw), 65_536):
        raw[start : start + 65_536, :width] = whitening(raw[start : start + 65_536])
    return raw[:, :width]


def section_near(data: Path, args: argparse.Namespace) -> None:
    """Nearest steps of other chains in whitened space: time of the product's way, recall against all pairs; an HNSW graph
    (usearch) beside it on the smaller sets.
    """
    real, of = made_steps(args.originals) if args.originals else step_states(data, args)
    for count, setting in itertools.product(args.vectors, args.settings):
        probes, width, rounds = map(int, setting.split(","))
        raw, chain = many_steps(real, of, count, args.noise)
        white = whitened_in_place(raw)
        del raw
        start, cpu = time.perf_counter(), processor_seconds()
        found, cosine = nearest_others(white, chain, 5, probes=probes, width=width, rounds=rounds)
        seconds, cpu = time.perf_counter() - start, processor_seconds() - cpu
        sample = np.random.default_rng(1).permutation(count)[:500]
        start = time.perf_counter()
        truth: list[np.ndarray] = []
        for some in np.split(sample, 10):
            every = white[some] @ white.T
            every[chain[some][:, None] == chain] = -1
            bar = np.partition(every, count - 5, axis=1)[:, count - 5]
            truth += [np.flatnonzero(row >= least) for row, least in zip(every, bar, strict=True)]
            del every
        brute = (time.perf_counter() - start) * count / len(sample)
        of_real = sample < len(real)

        def recall(index: np.ndarray, truth: Any = truth, sample: Any = sample) -> np.ndarray:
            return np.array([len(set(a) & set(b)) / 5 for a, b in zip(truth, index[sample].tolist(), strict=True)])

        hits = recall(found)
        best = cosine[sample, 0]
        print(
            f"{count:,} x {white.shape[1]} ({len(real):,} {'made' if args.originals else 'real'}), probes {probes}, width "
            f"{width}, rounds {rounds}: {seconds:.1f} s clock, {cpu:.1f} s CPU, recall {hits.mean():.3f} (of real "
            f"steps {hits[of_real].mean():.3f}, where the best cosine exceeds 0.3 {hits[best > 0.3].mean():.3f}); brute "
            f"force {brute:.0f} s (from {len(sample):,}); best cosine {np.nanmedian(best):.2f} in the median; "
            f"peak {peak_gb():.1f} GB",
            flush=True,
        )
        if count <= args.hnsw:
            from usearch.index import Index

            for dtype, connectivity, add, search in (("bf16", 16, 40, 64), ("i8", 16, 32, 48), ("i8", 8, 24, 32)):
                start = time.perf_counter()
                graph = Index(
                    ndim=white.shape[1], metric="cos", dtype=dtype, connectivity=connectivity, expansion_add=add,
                    expansion_search=search,
                )  # fmt: skip
                graph.add(np.arange(count, dtype=np.uint64), white, threads=2)
                keys = np.asarray(graph.search(white, 5 + 10, threads=2).keys).astype(np.int64)
                took = time.perf_counter() - start
                foreign = chain[keys] != chain[:, None]
                order = np.argsort(~foreign, axis=1, kind="stable")[:, :5]
                print(
                    f"  usearch {dtype}, connectivity {connectivity}, expansion {add}/{search}: {took:.1f} s clock, "
                    f"recall {recall(np.take_along_axis(keys, order, axis=1)).mean():.3f}",
                    flush=True,
                )


def section_texts(data: Path, args: argparse.Namespace) -> None:
    """Experiment 9, the attraction zone and recovery from a part, on GSM8K; skeletons of every data set."""
    encode = encoder()
    corpus = corpus_of(data, "gsm8k")
    out = statemap.held_out(corpus, 30)
    base, held = corpus.select(~out), corpus.select(out)
    other = corpus_of(data, "strategyqa", "bbh", "entailment bank", "prontoqa")
    chains = {chain.id: chain for chain in read([data / FILES["gsm8k"]])}
    queries = []
    for name in held.chains:
        item = segmented(chains[name])
        queries.append(capture.encoded_query(item.chain.text, encode, item.steps))
    from tokenizers import Tokenizer

    from trails.measure.packaged import packaged_model

    tokenizer = Tokenizer.from_file(str(packaged_model() / "tokenizer.json"))

    def decode(tokens: Any) -> str:
        return str(tokenizer.decode(np.asarray(tokens).tolist()))

    found = capture.calibrate(base, queries, other=other, decode=decode)
    print(f"experiment 9: {found.n_held_out} held-out GSM8K chains, maps of {found.n_chains:,} and {other.n_chains:,}")
    tell(found.scores, found.withheld)
    print("recovery from a contiguous part (row 16)")
    tell(capture.recovery(corpus, decode=decode))
    print("attraction zone: undisturbed share of the tokens, the rest replaced (row 43)")
    tell(capture.recovery(corpus, decode=decode, replace_tokens=True))
    from trails.measure.uniform import UniformScorer

    for name in FILES:
        items = [segmented(chain) for chain in read([data / FILES[name]])]
        traces = UniformScorer().measure([item for item in items if item.chain.text], MeasureOptions())
        result = overlaps.skeleton(traces)
        print(
            f"{name}, skeleton: {result.n_chains:,} chains, {len(result.variants or ()):,} variants, {result.notes[0]}"
        )
        tell(result.scores, result.withheld)
        calibration = gaps.calibrate(traces, limit=1500)
        print(f"{name}, removed step without a model, {calibration.n_chains:,} chains")
        tell(calibration.scores, [item for item in calibration.withheld if item.name not in gaps.MODEL])


class Cached:
    """A scorer that keeps what it has measured in a file."""

    def __init__(self, file: Path, device: str = "cpu") -> None:
        self.scorer = open_scorer(device=device)
        self.run = self.scorer.run
        self.file = file
        self.known: dict[tuple[str, bool, tuple[int, ...]], Trace] = {}
        if file.is_file():
            self.known = pickle.loads(file.read_bytes())

    def count_tokens(self, item: Segmented) -> int:
        """As the scorer does."""
        return self.scorer.count_tokens(item)

    def measure(self, items: Sequence[Segmented], options: MeasureOptions) -> list[Trace]:
        """Measured or remembered traces in the order of the items."""
        keys = [(item.chain.id, options.premises, options.states) for item in items]
        new = {key: item for key, item in zip(keys, items, strict=True) if key not in self.known}
        if new:
            traces = self.scorer.measure(list(new.values()), options)
            self.known.update(zip(new, traces, strict=True))
            self.file.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.file.with_suffix(".tmp")
            temporary.write_bytes(pickle.dumps(self.known))
            temporary.replace(self.file)
        return [self.known[key] for key in keys]


STATES = (15,)


def measured(
    data: Path, name: str, args: argparse.Namespace, *, least: int = 4, count: int = 0
) -> tuple[Cached, list[Trace]]:
    """Traces of the chains with the smallest hash of their id, of at least ``least`` steps and at most 1,500 tokens."""
    scorer = Cached(args.cache / f"{name.replace(' ', '-')}.pickle")
    items = [segmented(chain) for chain in read([data / FILES[name]])]
    items = [item for item in items if len(item.steps) >= least and scorer.count_tokens(item) < 1_500]
    items.sort(key=lambda item: content_key("calibration", item.chain.id, 0))
    items = items[: count or args.chains]
    traces: list[Trace] = []
    for a in range(0, len(items), 10):
        traces += scorer.measure(items[a : a + 10], MeasureOptions(states=STATES))
    return scorer, traces


def section_gaps(data: Path, args: argparse.Namespace) -> None:
    """Removed-step AUC of every seam score on GSM8K (goal: all >= 0.85, and the model's own share with its interval)."""
    scorer, traces = measured(data, "gsm8k", args)
    known = {trace.chain.id for trace in traces}
    more = [segmented(chain) for chain in read([data / FILES["gsm8k"]]) if chain.id not in known]
    for further in ([], more):
        found = gaps.calibrate(traces, scorer, more=further, block=10)
        print(
            f"gsm8k: {found.n_chains} chains, one step removed of each; weights without a model from {len(further)} more"
        )
        tell(found.scores, found.withheld)
    print("  weights:", ", ".join(f"{n} {w:+.2f}" for n, w in zip(found.features, found.weights, strict=True)))


def section_fresh(data: Path, args: argparse.Namespace) -> None:
    """Removed-step AUC on GSM8K chains that no score was developed or looked at with: those with the largest hashes, once.

    Without a model; with it where ``--device`` is given.
    """
    from trails.measure.uniform import UniformScorer

    items = [segmented(chain) for chain in read([data / FILES["gsm8k"]])]
    items.sort(key=lambda item: content_key("calibration", item.chain.id, 0))
    fresh = [item for item in items if len(item.steps) >= 4][-args.chains :]
    known = {item.chain.id for item in fresh}
    more = [item for item in items if item.chain.id not in known]
    scorer = Cached(args.cache / "fresh.pickle", args.device) if args.device else None
    measure: Cached | UniformScorer = scorer or UniformScorer()
    traces: list[Trace] = []
    for a in range(0, len(fresh), 10):
        traces += measure.measure(fresh[a : a + 10], MeasureOptions())
    for further in ([], more):
        found = gaps.calibrate(traces, scorer, more=further, block=10)
        print(
            f"gsm8k, fresh: {found.n_chains} chains, one step removed of each; weights without a model from "
            f"{len(further)} more"
        )
        tell(found.scores, [item for item in found.withheld if scorer or item.name not in gaps.MODEL])


def section_prontoqa(data: Path, args: argparse.Namespace) -> None:
    """The same where all premises are restated in the question."""
    scorer, traces = measured(data, "prontoqa", args, count=min(args.chains, 60))
    found = gaps.calibrate(traces, scorer, block=10)
    print(f"prontoqa: {found.n_chains} chains, one step removed of each")
    tell(found.scores, found.withheld)


def section_premises(data: Path, args: argparse.Namespace) -> None:
    """EntailmentBank: do leaving out a step, hiding it from attention, and attention itself tell the steps that its tree draws
    on it from others?"""
    scorer, traces = measured(data, "entailment bank", args, least=4, count=min(args.chains, 60))
    useful: list[float] = []
    shared: list[float] = []
    distance: list[float] = []
    hidden: list[float] = []
    mass: list[float] = []
    gold: list[bool] = []
    groups: list[int] = []
    for number, trace in enumerate(traces):
        edges = gold_edges(trace)
        item = Segmented(trace.chain, trace.steps)
        shorter = scorer.measure([gaps.without_step(item, j) for j in range(len(trace.steps))], MeasureOptions())
        matrix = gaps.premise_matrix(trace, shorter)
        words = [set(content_words(trace.chain.text[s.start : s.end])) for s in trace.steps]
        needs = dependence(scorer.scorer, trace, scorer.scorer.sequence(item)).nats
        for i in range(len(trace.steps)):
            seen = np.nanmean(trace.step_masses(i)[2:], axis=1)
            for j in range(i):
                if i not in {edge[1] for edge in edges} or not math.isfinite(matrix[i, j] + needs[i, j]):
                    continue
                useful.append(float(matrix[i, j]))
                shared.append(len(words[i] & words[j]) / max(len(words[i] | words[j]), 1))
                distance.append(float(j - i))
                hidden.append(float(needs[i, j]))
                mass.append(float(seen[j]))
                gold.append((j, i) in edges)
                groups.append(number)
    truth = np.array(gold, np.bool_)
    print(f"entailment bank: {len(traces)} trees, {int(truth.sum())} gold edges among {len(truth)} pairs of steps")
    if not truth.any() or truth.all():
        print("  the trees give no gold edge that could be told from others")
        return
    of = np.array(groups)
    for name, values in (
        ("hidden from attention", hidden),
        ("premise usefulness", useful),
        ("attention mass", mass),
        ("lexical overlap", shared),
        ("nearness", distance),
    ):
        column = np.array(values)

        def statistic(rows: Any, column: Any = column) -> float:
            picked = np.concatenate([np.flatnonzero(of == group) for group in rows[:, 0].astype(int)])
            return auc(column[picked][truth[picked]], column[picked][~truth[picked]])

        interval = bootstrap(np.unique(of)[:, None].astype(np.float64), statistic, draws=200)
        _, level = within_group_auc(column, truth, np.array(distance).astype(np.int64))
        print(
            f"  {name}: AUC {auc(column[truth], column[~truth]):.3f} ({interval[0]:.3f}–{interval[1]:.3f}); "
            f"mean over pairs of equal distance {float(level.mean()):.3f}"
        )


def gold_edges(trace: Trace) -> set[tuple[int, int]]:
    """(premise step, conclusion step) of an EntailmentBank chain, from what its reader keeps in the metadata."""
    import json

    chain = trace.chain
    starts = np.array([step.start for step in trace.steps])

    def step_at(boundary: int) -> int:
        # The segmenter may split an inference's part further: the part's first step stands for it.
        return int(np.searchsorted(starts, chain.boundaries[boundary], side="right")) - 1

    edges = set()
    for inference in json.loads(chain.metadata.get("tree", "[]")):
        conclusion = step_at(inference["conclusion"])
        edges.update((step_at(premise), conclusion) for premise in inference["premises"])
    return {(premise, conclusion) for premise, conclusion in edges if premise < conclusion}


def section_nearsteps(data: Path, args: argparse.Namespace) -> None:
    """Near overlaps of GSM8K steps in whitened hidden space, beyond masked exact matching."""
    _, traces = measured(data, "gsm8k", args)
    found = overlaps.near(traces)
    print(
        f"gsm8k: {found.n_steps} steps of {found.n_chains} chains, layer {found.layer}, {len(found.overlaps)} diagonal runs"
    )
    tell(found.scores, found.withheld)
    for row in found.overlaps.slice(0, 3).to_pylist():
        print("  ", row["n_tokens"], "steps:", row["text"].replace("\n", " ")[:160])


def section_bridges(data: Path, args: argparse.Namespace) -> None:
    """Bridges between random pairs of GSM8K steps: claimed, re-scored, random splices, real spans."""
    scorer, traces = measured(data, "gsm8k", args)
    graph = bridge.step_graph(traces)
    rng = np.random.default_rng(0)
    rows = []
    while len(rows) < 8:
        a, b = (graph.key(int(node)) for node in rng.integers(0, graph.n_nodes, 2))
        if a.split(":")[0] == b.split(":")[0]:
            continue
        found = bridge.find_bridge(graph, scorer, a, b, splices=3, rounds=2)
        if found.minimax is None:
            rows.append(None)
            continue
        score = found.minimax.scores[0]
        rows.append((score.value, *(control.value for control in score.controls)))
        names = [control.name.split(" of ")[0] for control in score.controls]
        print("  re-scored", f"{score.value:.2f}", *(f"{n} {v:.2f}" for n, v in zip(names, rows[-1][1:], strict=True)))
    print(f"{sum(row is None for row in rows)} of {len(rows)} pairs have no path")


SECTIONS: dict[str, Callable[[Path, argparse.Namespace], None]] = {
    "overlaps": section_overlaps,
    "growth": section_growth,
    "map": section_map,
    "near": section_near,
    "texts": section_texts,
    "gaps": section_gaps,
    "fresh": section_fresh,
    "prontoqa": section_prontoqa,
    "premises": section_premises,
    "nearsteps": section_nearsteps,
    "bridges": section_bridges,
}


def main() -> None:
    """Run the sections that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("sections", nargs="*", default=["overlaps", "map"], choices=[*SECTIONS, []])
    parser.add_argument("--chains", type=int, default=300)
    parser.add_argument(
        "--vectors", type=int, nargs="+", default=[1_000_000], help="numbers of step vectors of section near"
    )
    parser.add_argument(
        "--noise", type=float, default=1.0, help="how far copies of real steps are moved, in section near"
    )
    parser.add_argument(
        "--state-chains", type=int, default=2_200, help="chains whose real step states section near starts from"
    )
    parser.add_argument(
        "--originals",
        type=int,
        default=0,
        help="section near starts from so many random vectors in place of real states",
    )
    parser.add_argument(
        "--settings",
        nargs="+",
        default=[f"{PROBES},{WIDTH},{ROUNDS}"],
        help="PROBES,WIDTH,ROUNDS: what section near searches with, one after the other",
    )
    parser.add_argument("--hnsw", type=int, default=0, help="sets up to this size are also searched with usearch")
    parser.add_argument("--device", default="", help="where the model of section fresh runs (default: without a model)")
    parser.add_argument("--cache", type=Path, default=Path("benchmarks/.cache"))
    args = parser.parse_args()
    print(f"Python {platform.python_version()}, numpy {np.__version__}, {platform.machine()}")
    for name in args.sections or ["overlaps", "map"]:
        print(f"\n== {name}")
        start = time.perf_counter()
        SECTIONS[name](args.data, args)
        print(f"({time.perf_counter() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
