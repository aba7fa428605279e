"""LoRA adapters: a fresh one in chosen layers, one from a folder, and what one adds to the weights."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from trails.errors import UsageError
from trails.platform.files import write_atomic
from trails.train.attention import NAME as BINNED
from trails.train.attention import install
from trails.train.check import check_adapter
from trails.train.data import Row
from trails.train.options import TARGETS, TrainOptions


def with_adapter(model: Any, options: TrainOptions, layers: Sequence[int]) -> Any:
    """The model with a fresh LoRA adapter in the chosen layers; nothing else is trainable."""
    from peft import LoraConfig, get_peft_model

    name = options.targets or ("channels" if options.objective == "attention" else "all")
    targets = TARGETS.get(name) or tuple(part.strip() for part in name.split(","))
    if targets == "all-linear" and layers:  # PEFT wants module names where layers are chosen
        targets = tuple(linear_names(model))
    if options.objective == "attention":
        install()
        model.set_attn_implementation(BINNED)
    torch.manual_seed(options.seed)
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        layers_to_transform=[layer - 1 for layer in layers] or None,  # PEFT counts from 0
        task_type="CAUSAL_LM",
        bias="none",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        known = ", ".join(linear_names(model))
        raise UsageError(f"targets {name!r} do not fit this model ({error}). Modules: {known}.") from None


def forget_gguf(model: Any) -> None:
    """Take the mark of a GGUF origin off a model whose weights are plain floats, or the trainer takes it for quantised."""
    quantizer = getattr(model, "hf_quantizer", None)
    method = str(getattr(getattr(quantizer, "quantization_config", None), "quant_method", "")).lower()
    if method.endswith("gguf") and all(parameter.is_floating_point() for parameter in model.parameters()):
        model.hf_quantizer = None
        model.is_quantized = False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config


def put_adapter(model: Any, folder: Path, name: str) -> Any:
    """The model with the adapter of a folder in use, in addition to those it has already; a PEFT model.

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


def mix_adapters(model: Any, folders: Mapping[str, Path], weights: Mapping[str, float], output: Path) -> None:
    """Write an adapter to ``output`` whose change of every weight is the weighted sum of those in ``folders``: its factors side
    by side, so that the sum is exact and its rank is the sum of their ranks.

    Raises ModelError when a folder holds no adapter. ``model`` is changed: it carries the adapters afterwards.
    """
    import tempfile

    for name, folder in folders.items():
        model = put_adapter(model, folder, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.add_weighted_adapter(list(folders), [weights[name] for name in folders], "mixed", combination_type="cat")
        with tempfile.TemporaryDirectory() as scratch:
            model.save_pretrained(scratch, selected_adapters=["mixed"], safe_serialization=True)
            output.mkdir(parents=True, exist_ok=True)
            for path in sorted((Path(scratch) / "mixed").iterdir()):
                if path.name in ("adapter_config.json", "adapter_model.safetensors"):
                    write_atomic(output / path.name, path.read_bytes())


def linear_names(model: Any) -> list[str]:
    """Last parts of the names of the decoder's linear modules (without the head), sorted."""
    head = model.get_output_embeddings()
    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and module is not head
        }
    )


def chosen_layers(rows: Sequence[Row], options: TrainOptions, model: Any) -> tuple[int, ...]:
    """Layers with an adapter, 1 … L: the option, else what every row of the export names. Empty for all."""
    count = int(model.config.get_text_config().num_hidden_layers)
    if options.layers is not None:
        layers = tuple(sorted(set(options.layers)))
    else:
        found = {tuple(layer + 1 for layer in row.get("layers", ())) for row in rows}  # as PEFT counts
        if len(found) > 1:
            raise UsageError("the rows of the export name different layers. Choose with --layers.")
        layers = found.pop()
    if any(not 1 <= layer <= count for layer in layers):
        raise UsageError(f"layers {', '.join(map(str, layers))} do not exist. This model has layers 1 to {count}.")
    return layers


def weight_change(model: Any) -> dict[int, float]:
    """Frobenius norm of what the adapter adds to each layer's weights; 0 exactly where there is no adapter.

    ``model`` is a PEFT model. Layers are numbered 1 … L.
    """
    count = int(model.config.get_text_config().num_hidden_layers)
    found = dict.fromkeys(range(1, count + 1), 0.0)
    with torch.no_grad():
        for name, module in model.named_modules():
            if hasattr(module, "get_delta_weight") and getattr(module, "lora_A", None):
                layer = re.search(r"\.(?:layers|h|blocks)\.(\d+)\.", name)
                if layer:
                    for adapter in module.lora_A:
                        found[int(layer[1]) + 1] += float(module.get_delta_weight(adapter).float().pow(2).sum())
    return {layer: value**0.5 for layer, value in found.items()}
