"""From a model's name to a scorer: where the files are, what is refused and why, and what identifies the weights."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from trails.errors import MissingPackageError, ModelError
from trails.measure.huggingface import HuggingFaceScorer
from trails.measure.packaged import MODEL_ID, cache_folder, packaged_model, quiet

_COMMIT = re.compile(r"[0-9a-f]{40}")
_PICKLE = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "spiece.model")


def load_scorer(
    model: str,
    *,
    device: str,
    dtype: Literal["float32", "bfloat16", "float16"],
    attention: Literal["sdpa", "eager"],
    bos: Literal["auto", "always", "never"],
    template: Literal["plain", "chat"],
    window: Literal["refuse", "stride"],
    adapter: str | Path | None,
    trust_remote_code: bool,
    revision: str | None,
) -> HuggingFaceScorer:
    """See :func:`trails.measure.open_scorer`."""
    target = choose_device(device)
    if model in ("", MODEL_ID):
        folder, name = packaged_model(), MODEL_ID
    elif _is_path(model):
        folder = Path(model).expanduser()
        check_folder(folder, trust_remote_code=trust_remote_code)
        name = folder.resolve().name
    else:
        folder, name = _download(model, trust_remote_code=trust_remote_code, revision=revision), model
    with quiet():
        try:
            loaded = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                local_files_only=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(
                folder, trust_remote_code=trust_remote_code, local_files_only=True
            )
        except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"the model {model or name} cannot be loaded: {_first_line(error)}") from None
    adapter_hash = ""
    if adapter is not None:
        loaded, adapter_hash = _with_adapter(loaded, Path(adapter).expanduser())
    return HuggingFaceScorer(
        loaded.to(target),
        tokenizer,
        name=name,
        revision=weights_hash(folder),
        adapter=adapter_hash,
        attention=attention,
        bos=bos,
        template=template,
        window=window,
    )


def choose_device(device: str) -> torch.device:
    """``auto`` is CUDA if there is one. Raises ModelError for a device that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
    except RuntimeError:
        raise ModelError(f"--device {device} is no device. Use auto, cpu, cuda or cuda:N.") from None
    if target.type == "cuda" and (not torch.cuda.is_available() or (target.index or 0) >= torch.cuda.device_count()):
        raise ModelError(
            f"--device {device} was asked for, this machine has {torch.cuda.device_count()} CUDA devices. Use --device cpu."
        )
    return target


def _is_path(model: str) -> bool:
    return Path(model).expanduser().exists() or model.startswith((".", "/", "~")) or model.count("/") > 1


def check_folder(folder: Path, *, trust_remote_code: bool = False) -> None:
    """Raise ModelError unless the folder holds a model that may be loaded: config, safetensors, tokenizer, no remote code."""
    if not folder.is_dir():
        raise ModelError(
            f"there is no model folder {folder}. Give an existing folder, or a Hugging Face id like org/name."
        )
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json, so it is no model folder. Save the model with save_pretrained.")
    files = {file.name for file in folder.iterdir()}
    if not any(name.endswith(".safetensors") for name in files):
        pickles = sorted(name for name in files if name.endswith(_PICKLE))
        if pickles:
            raise ModelError(
                f"{folder} has its weights only as pickle ({pickles[0]}), which can run code when it is loaded, and is "
                "refused. Save the model with save_pretrained(..., safe_serialization=True) where you trust it."
            )
        raise ModelError(f"{folder} has no weights (*.safetensors). Save the model with save_pretrained.")
    if not files & set(_TOKENIZER):
        raise ModelError(f"{folder} has no tokenizer (tokenizer.json). Save it there with tokenizer.save_pretrained.")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("auto_map") and not trust_remote_code and config.get("model_type") not in transformers.CONFIG_MAPPING:
        raise ModelError(
            f"{folder} needs its own Python code ({config.get('model_type', 'unknown model type')}), which is not run by "
            "default. Read the code, then give --trust-remote-code."
        )


def _download(model: str, *, trust_remote_code: bool, revision: str | None) -> Path:
    """Folder of the snapshot of a Hugging Face id; downloads what is missing."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if trust_remote_code and not _COMMIT.fullmatch(revision or ""):
        raise ModelError(
            f"remote code of {model} is run only from a pinned revision: give --revision with the 40 hex digits of the commit "
            "that you have read."
        )
    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"] + (["*.py"] if trust_remote_code else [])
    try:
        folder = Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
    except HFValidationError:
        raise ModelError(f"{model} is neither a folder nor a Hugging Face id like org/name.") from None
    except (HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"the model {model} cannot be had from the model hub: {_first_line(error)} Give a local folder, or leave "
            "--model out to use the packaged SmolLM2-135M-Instruct."
        ) from None
    check_folder(folder, trust_remote_code=trust_remote_code)
    return folder


def weights_hash(folder: Path) -> str:
    """What identifies the weights: the commit for a hub snapshot, else SHA-256 over the safetensors files.

    The digest of a local folder is remembered in the cache folder by path, size and time, because hashing takes seconds per
    gigabyte.
    """
    if folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name):
        return folder.name
    files = sorted(folder.glob("*.safetensors"))
    stamp = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    key = hashlib.sha256(json.dumps([str(folder.resolve()), stamp]).encode()).hexdigest()
    remembered = cache_folder() / "weights" / key
    if remembered.is_file():
        return remembered.read_text(encoding="ascii").strip()
    digest = hashlib.sha256()
    for file in files:
        digest.update(_file_digest(file))
    try:
        remembered.parent.mkdir(parents=True, exist_ok=True)
        temporary = remembered.with_suffix(f".{os.getpid()}")
        temporary.write_text(digest.hexdigest() + "\n", encoding="ascii")
        temporary.replace(remembered)
    except OSError:
        pass  # a read-only cache only costs the time of hashing again
    return digest.hexdigest()


def _file_digest(file: Path) -> bytes:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").digest()


def _with_adapter(model: Any, folder: Path) -> tuple[Any, str]:
    """The model with a PEFT LoRA applied, and the hash of the adapter.

    In float32 the adapter is merged into the weights, which changes a logit by rounding only and costs nothing per
    token; in a shorter dtype merging would round the adapter away, so it stays beside them.
    """
    try:
        from peft import PeftModel
    except ImportError:
        raise MissingPackageError("an adapter needs the package peft: pip install 'trails[train]'") from None
    if not (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{folder} has no adapter_config.json, so it is no PEFT adapter. Give the folder that training wrote."
        )
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        raise ModelError(f"{folder} has no adapter_model.safetensors; adapters saved as pickle are refused.")
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    if config.get("peft_type") != "LORA":
        raise ModelError(
            f"{folder} is a {config.get('peft_type')} adapter; trails measures LoRA adapters. Merge it into the model first."
        )
    # where the base model was and who wrote the file do not change a number
    config = {k: v for k, v in config.items() if k not in ("base_model_name_or_path", "revision", "inference_mode")}
    identity = hashlib.sha256(json.dumps(config, sort_keys=True).encode() + _file_digest(weights)).hexdigest()
    with quiet():
        try:
            adapted = PeftModel.from_pretrained(model, folder, local_files_only=True)
        except (RuntimeError, ValueError, KeyError) as error:
            raise ModelError(f"the adapter {folder} does not fit the model: {_first_line(error)}") from None
    if model.dtype == torch.float32:
        return adapted.merge_and_unload(), identity[:16]
    return adapted.get_base_model(), identity[:16]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
