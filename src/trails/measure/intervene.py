"""Interventions: what a place in a model gives is changed while a chain is measured.

An :class:`Intervention` is plain data, and :class:`IntervenedScorer` is a scorer like any other whose run carries it: numbers
measured with a change and without never share a run. The four operations, at the chosen positions of what a site of a layer
gives, x (…, d), with a vector v (d,) and a strength s:

=========  ============================================================================================
add        x + s v
replace    (1 - s) x + s v
ablate     x - s x, or with a vector x - s (x·v / v·v) v: 1 takes all of it away
scale      x + s x, or with a vector x + s (x·v / v·v) v: 1 doubles it
=========  ============================================================================================

Strength 0 changes no bit of any number. Positions are those of the chain's own tokens; they are found again in every chain.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from trails.errors import InputError, ModelError, UnmeasurableError, UsageError
from trails.measure.base import MeasureOptions, Segmented
from trails.measure.huggingface import HuggingFaceScorer
from trails.measure.model import Model, Site
from trails.measure.passes import TokenSequence
from trails.measure.pvq import read_pvq
from trails.platform.arrays import Floats
from trails.platform.text import counted
from trails.schema import Trace

Operation = Literal["add", "replace", "ablate", "scale"]
NEEDS_VECTOR = frozenset({"add", "replace"})

_PLACE = re.compile(r"all|step:(?P<step>\d+)|(?P<first>\d+)(?::(?P<stop>\d+))?")


@dataclass(frozen=True, slots=True)
class Intervention:
    """A change inside a model.

    ``layer`` counts from 1; ``component`` is what is changed: the residual stream after the layer (``block_output``), or
    what its attention or its MLP adds to it. ``positions``: ``all`` tokens of the chain, ``step:3``, a token ``12``, or
    tokens ``12:20`` (20 not included). ``vector`` is the file's name or where the vector comes from, ``vector_sha256`` the
    hash of its numbers (float32), empty without a vector. Raises UsageError for an operation, a component or positions that
    do not exist, for a strength that is not finite, and where the operation needs a vector and none is given.
    """

    layer: int
    operation: Operation
    component: Site = "block_output"
    positions: str = "all"
    strength: float = 1.0
    vector: str = ""
    vector_sha256: str = ""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("operation", self.operation, get_args(Operation)),
            ("component", self.component, get_args(Site)),
        ):
            if value not in known:
                raise UsageError(f"{name} {value!r} was asked for. There are: {', '.join(known)}.")
        found = _PLACE.fullmatch(self.positions)
        if not found or (found["stop"] and int(found["stop"]) <= int(found["first"])):
            raise UsageError(
                f"positions {self.positions!r} do not exist. Write all, step:3, a token 12, or tokens 12:20 (20 "
                f"not included)."
            )
        if not np.isfinite(self.strength):
            raise UsageError(f"a strength of {self.strength} is not a finite number. Give one.")
        if self.operation in NEEDS_VECTOR and not self.vector_sha256:
            raise UsageError(f"{self.operation} needs a vector: --vector FILE, --from CHAIN:STEP, or --from random.")

    @property
    def identity(self) -> str:
        """What decides a number, as JSON of one spelling. The name of the vector's file does not."""
        kept = {name: value for name, value in asdict(self).items() if name != "vector"}
        return json.dumps(kept, sort_keys=True, separators=(",", ":"))

    def record(self) -> dict[str, Any]:
        """Everything as plain values; ``Intervention(**record)`` is the same intervention."""
        return asdict(self)

    def tokens(self, step_tokens: Sequence[Sequence[int]] | Any, n: int, chain: str) -> slice:
        """The positions in a chain of ``n`` tokens whose steps have the spans ``step_tokens`` (S, 2).

        Raises UnmeasurableError for a step or tokens that the chain does not have.
        """
        found = _PLACE.fullmatch(self.positions)
        assert found is not None
        if found["step"]:
            step = int(found["step"])
            if step >= len(step_tokens):
                raise UnmeasurableError(
                    f"step {step} of chain {chain} was to be changed, it has steps 0 to {len(step_tokens) - 1}."
                )
            first, stop = (int(place) for place in step_tokens[step])
        elif found["first"]:
            first = int(found["first"])
            stop = int(found["stop"]) if found["stop"] else first + 1
        else:
            first, stop = 0, n
        if not first < stop <= n:
            raise UnmeasurableError(
                f"tokens {first}:{stop} of chain {chain} were to be changed, it has {counted(n, 'token')} (0 to {n - 1})."
            )
        return slice(first, stop)


def vector_hash(vector: Floats) -> str:
    """SHA-256 of the numbers of a vector as little-endian float32, 64 hex digits."""
    return hashlib.sha256(np.ascontiguousarray(vector, "<f4").tobytes()).hexdigest()


def read_vector(path: Path) -> Floats:
    """A vector (d,) from a ``.npy`` file, the only tensor of a ``.safetensors`` file, or a ``pvq.json``
    (:mod:`trails.measure.pvq`; ``FILE#ID`` names one of several). Raises InputError for another file, and for numbers that
    are not finite.
    """
    file, mark, name = (str(path), "", "") if path.exists() else str(path).partition("#")
    source = Path(file)
    if not source.exists():
        raise UsageError(
            f"there is no file {source}. Give a .npy, a .safetensors or a pvq.json file; this writes one: "
            "trails pvq write STEPS -o vectors.pvq.json"
        )
    if file.endswith(".json"):
        return read_pvq(source).one(name)
    if mark:
        raise UsageError(f"vector {name!r} of {source} was asked for, and only a pvq.json holds vectors with names.")
    try:
        if source.suffix == ".safetensors":
            from safetensors.numpy import load_file

            tensors = load_file(source)
            if len(tensors) != 1:
                raise InputError(
                    f"{source}: {len(tensors)} tensors ({', '.join(sorted(tensors)[:5])}); give a file with one."
                )
            (values,) = tensors.values()
        else:
            with source.open("rb") as npy:
                if npy.read(6) != b"\x93NUMPY":  # numpy would take it for a pickle, and advise to trust it
                    raise InputError(f"{source}: this is no .npy file. Give a .npy, a .safetensors or a pvq.json file.")
            values = np.load(source, allow_pickle=False)
    except InputError:
        raise
    except Exception as error:  # a file of a stranger
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path}: no vector can be read from it ({reason}). Give a .npy, a .safetensors or a pvq.json file."
        ) from None
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu" or not values.size:
        raise InputError(f"{path}: it holds no array of numbers. Give a .npy or a .safetensors file with one vector.")
    with np.errstate(over="ignore"):  # too large for 32 bits is told below
        vector = np.asarray(values, np.float32)
    if vector.ndim > 1 and vector.size == max(vector.shape):
        vector = vector.reshape(-1)
    if vector.ndim != 1:
        raise InputError(f"{path}: an array of shape {values.shape} is not a vector. Give one row of it.")
    if not np.isfinite(vector).all():
        if np.isfinite(values).all():
            raise InputError(f"{path}: the vector holds a number that is too large for 32 bits (above 3.4e38).")
        raise InputError(f"{path}: the vector holds NaN or infinity.")
    return vector


def random_vector(width: int, length: float, seed: int) -> Floats:
    """A random direction of the given length, (width,); the same for the same seed."""
    drawn = np.random.default_rng([seed, width]).standard_normal(width)
    return np.asarray(drawn * (length / np.linalg.norm(drawn)), np.float32)


def applied(
    model: Model, intervention: Intervention, vector: Floats | None, where: slice
) -> AbstractContextManager[None]:
    """While inside, the model is changed at the positions ``where`` of every sequence (B, T).

    Raises ModelError for a layer or a component that the model does not have, UsageError for a vector of another width.
    """
    if vector is not None and len(vector) != model.d_model:
        raise UsageError(
            f"the vector {intervention.vector or 'given'} has {len(vector)} numbers, the states of {model.name} have "
            f"{model.d_model}. Give a vector made for this model."
        )
    of = None if vector is None else model.tensor(np.asarray(vector, np.float32))
    change = _change(intervention.operation, intervention.strength, of)

    def function(output: Tensor) -> Tensor:
        changed = output.clone()
        changed[:, where] = change(output[:, where].float()).to(output.dtype)
        return changed

    return model.changed(intervention.layer, intervention.component, function)


def _change(operation: Operation, strength: float, vector: Tensor | None) -> Callable[[Tensor], Tensor]:
    """The operation as a function of states (…, d)."""
    if operation == "add" and vector is not None:
        return lambda x: x + strength * vector
    if operation == "replace" and vector is not None:
        return lambda x: (1 - strength) * x + strength * vector
    sign = -strength if operation == "ablate" else strength
    if vector is None:
        return lambda x: x + sign * x
    unit = vector / torch.linalg.vector_norm(vector).clamp_min(torch.finfo(torch.float32).tiny)
    return lambda x: x + sign * (x @ unit)[..., None] * unit


class IntervenedScorer:
    """A scorer whose model is changed while it measures. ``inner`` is the scorer of the model as it is.

    Chains are measured one at a time, because positions differ between them. Raises ModelError and UsageError as
    :func:`applied` does, before anything is measured.
    """

    def __init__(self, inner: HuggingFaceScorer, intervention: Intervention, vector: Floats | None = None) -> None:
        found = "" if vector is None else vector_hash(vector)
        if found != intervention.vector_sha256:
            raise UsageError(
                f"the vector {intervention.vector or 'given'} has the hash {found[:12] or 'none'}, the intervention says "
                f"{intervention.vector_sha256[:12] or 'none'}. Give the vector that belongs to it."
            )
        with applied(inner.model, intervention, vector, slice(0, 0)):
            pass
        self.inner, self.intervention, self.vector = inner, intervention, vector
        notes = {**inner.run.notes, "intervention": intervention.record()}
        self.run = replace(inner.run, intervention=intervention.identity, notes=notes)

    def count_tokens(self, item: Segmented) -> int:
        """Length of the whole sequence (context and chain) in tokens."""
        return self.inner.count_tokens(item)

    def measure(self, items: Sequence[Segmented], options: MeasureOptions) -> list[Trace]:
        """Traces in the order of the items. Raises UsageError where premises or gradients are asked for: both read other
        sequences than the chain's, so the positions would be others. Raises UnmeasurableError for a chain without the
        positions, or that does not fit into one window.
        """
        if options.premises:
            raise UsageError("premises were asked for together with an intervention. Leave them out.")
        if options.gradients:
            raise UsageError("gradients were asked for together with an intervention. Leave them out.")
        return [self._measure(item, options) for item in items]

    def _measure(self, item: Segmented, options: MeasureOptions) -> Trace:
        sequence = self.inner.sequence(item)
        check_window(self.inner, sequence)
        context = len(sequence.row.context)
        where = self.intervention.tokens(sequence.row.step_tokens, len(sequence.row.tokens), item.chain.id)
        with applied(
            self.inner.model, self.intervention, self.vector, slice(context + where.start, context + where.stop)
        ):
            (trace,) = self.inner.measure([item], options)
        return replace(trace, run=self.run.id)


def check_window(scorer: HuggingFaceScorer, sequence: TokenSequence) -> None:
    """Raises UnmeasurableError for a chain that does not fit into one window of the model."""
    limit = scorer.run.max_tokens
    if limit and sequence.length > limit:
        raise UnmeasurableError(
            f"chain {sequence.item.chain.id} has {counted(sequence.length, 'token')} with its context, the window of "
            f"{scorer.run.model} is {limit}: an intervention needs the whole chain in one window. Choose a shorter chain."
        )


def site_states(scorer: HuggingFaceScorer, item: Segmented, layer: int, component: Site) -> Floats:
    """What a site of a layer gives at every token of a chain, (n, d) float32, without any change.

    Raises ModelError for a layer or a component that the model does not have, and for a chain longer than its window.
    """
    sequence = scorer.sequence(item)
    check_window(scorer, sequence)
    seen: list[Tensor] = []

    def look(output: Tensor) -> Tensor:
        seen.append(output[0, len(sequence.row.context) :].float())
        return output

    model = scorer.model
    with model.measuring(), model.changed(layer, component, look):
        model.hidden(model.tensor(sequence.row.ids)[None])
    if len(seen) != 1:
        raise ModelError(f"the {component} of layer {layer} of {model.name} ran {len(seen)} times in one pass.")
    return np.asarray(seen[0].cpu().numpy(), np.float32)
