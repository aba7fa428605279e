"""From a model's name to a scorer: where the files are, what is refused and why, and what identifies the weights."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from trails.errors import MissingPackageError, ModelError
from trails.measure.compiled import Compile
from trails.measure.huggingface import HuggingFaceScorer
from trails.measure.packaged import MODEL_ID, cache_folder, packaged_model, quiet
from trails.measure.remembered import COMMIT, one_name, remember, remember_folder
from trails.measure.tokens import ControlTokens
from trails.platform.files import lacking, refused
from trails.platform.text import counted
from trails.schema import stable_hash

_PICKLE = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_INDEX = "model.safetensors.index.json"
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
    think: bool,
    control_tokens: ControlTokens,
    compile: Compile,
    adapter: str | Path | None,
    trust_remote_code: bool,
    revision: str | None,
) -> HuggingFaceScorer:
    """See :func:`trails.measure.open_scorer`."""
    options = {
        **{"dtype": dtype, "attention": attention, "bos": bos, "template": template, "window": window, "think": think},
        **{"control_tokens": control_tokens, "adapter": adapter, "revision": revision},
        "trust_remote_code": trust_remote_code,
    }
    target = choose_device(device)
    if one_name(model) == MODEL_ID:
        folder, name = packaged_model(), MODEL_ID
    elif _is_path(model):
        folder = Path(model).expanduser()
        check_folder(folder, trust_remote_code=trust_remote_code, pinned=revision)
        name = folder.resolve().name
    else:
        folder, name = _download(model, trust_remote_code=trust_remote_code, revision=revision), model
    with quiet():
        try:
            loaded, report = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are an error below, by name
            )
            tokenizer = AutoTokenizer.from_pretrained(
                folder, trust_remote_code=trust_remote_code, local_files_only=True
            )
        except Exception as error:  # files of a stranger: configuration, weights and template may fail in any way
            why = refused(error) if lacking(error) else _first_line(error)
            raise ModelError(f"the model {model or name} cannot be loaded: {why}") from None
    _check_keys(
        f"the weights of {model or name} do not fit its configuration",
        missing=report["missing_keys"],
        unexpected=report["unexpected_keys"],
        mismatched=[str(key[0]) if isinstance(key, tuple) else str(key) for key in report["mismatched_keys"]],
        advice="Copy the model's folder again, or save the model with save_pretrained.",
    )
    _check_floats(loaded, folder, f"the weights of {model or name}")
    identity, adapter_hash = weights_hash(folder), ""
    if trust_remote_code and _is_path(model):
        identity = stable_hash(identity, code_hash(folder), length=64)
    if adapter is not None:
        path = Path(adapter).expanduser()
        _check_base(path, name, identity, {folder.name, folder.resolve().name})
        loaded, adapter_hash = _adapted(loaded, path)
    loaded = loaded.to(target)
    _check_finite(loaded, f"the weights of {model or name}" + (f" with the adapter {adapter}" if adapter else ""))
    scorer = HuggingFaceScorer(
        loaded,
        tokenizer,
        name=name,
        revision=identity,
        adapter=adapter_hash,
        think=think,
        control_tokens=control_tokens,
        compile=compile,
        attention=attention,
        bos=bos,
        template=template,
        window=window,
    )
    remember(scorer.run.id, model, options, folder)
    if name != MODEL_ID and _is_path(model):
        remember_folder(name, identity, folder)
    return scorer


def choose_device(device: str) -> torch.device:
    """``auto`` is CUDA if there is one. Raises ModelError for a device that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
    except RuntimeError:
        raise ModelError(f"--device {device} is not a device. Use auto, cpu, cuda or cuda:N.") from None
    if target.type == "cuda" and (not torch.cuda.is_available() or (target.index or 0) >= torch.cuda.device_count()):
        raise ModelError(
            f"--device {device} was asked for, this machine has {torch.cuda.device_count()} CUDA devices. Use --device cpu."
        )
    return target


def _is_path(model: str) -> bool:
    # no name is the packaged model; as a path it would be the current folder
    if not model:
        return False
    return Path(model).expanduser().exists() or model.startswith((".", "/", "~")) or model.count("/") > 1


def _check_weights(file: Path) -> None:
    """Raise ModelError, with the name of the file, unless it is as long as its header says (the format of safetensors)."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(64)
        if start.startswith(b"version https://git-lfs"):
            raise ModelError(f"{file} is a Git LFS pointer, not weights. In its repository run: git lfs pull")
        length = int.from_bytes(start[:8], "little")
        wanted = None
        if 8 < 8 + length <= size:
            opened.seek(8)
            try:
                header = json.loads(opened.read(length))
                wanted = (
                    8
                    + length
                    + max((e["data_offsets"][1] for n, e in header.items() if n != "__metadata__"), default=0)
                )
            except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
                wanted = None
    if wanted != size:
        found = "its beginning is not a safetensors header" if wanted is None else f"its header asks for {wanted:,}"
        raise ModelError(
            f"{file} is not a complete file of weights: it has {counted(size, 'byte')}, and {found}. Copy it again."
        )


def check_folder(folder: Path, *, trust_remote_code: bool = False, pinned: str | None = None) -> None:
    """Raise ModelError unless the folder holds a model that may be loaded: config, safetensors, tokenizer, and remote code only
    where it is trusted and ``pinned`` is its hash (see :func:`code_hash`).
    """
    if not folder.is_dir():
        raise ModelError(
            f"there is no model folder {folder}. Give an existing folder, or a Hugging Face id like org/name."
        )
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} has no config.json, so it is not a model folder. Save the model with save_pretrained."
        )
    files = {file.name for file in folder.iterdir()}
    if not any(name.endswith(".safetensors") for name in files):
        pickles = sorted(name for name in files if name.endswith(_PICKLE))
        if pickles:
            raise ModelError(
                f"{folder} has its weights only as pickle ({pickles[0]}), which can run code when it is loaded, and is "
                "refused. Save the model with save_pretrained(..., safe_serialization=True) where you trust it."
            )
        raise ModelError(f"{folder} has no weights (*.safetensors). Save the model with save_pretrained.")
    loaded = {"model.safetensors"} & files
    if not loaded and (folder / _INDEX).is_file():
        named = _object(folder / _INDEX).get("weight_map")
        parts = {str(name) for name in named.values()} if isinstance(named, dict) else set()
        missing = sorted(parts - files)
        if missing:
            raise ModelError(
                f"{folder} lacks {len(missing)} of the {counted(len(parts), 'file')} of weights that {_INDEX} names: "
                f"{', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}. Copy the folder again."
            )
        loaded = parts
    for name in sorted(loaded):  # a folder may hold other weights beside them, as an adapter or another format
        _check_weights(folder / name)
    if not files & set(_TOKENIZER):
        raise ModelError(f"{folder} has no tokenizer (tokenizer.json). Save it there with tokenizer.save_pretrained.")
    config = _object(folder / "config.json")
    if config.get("auto_map") and not trust_remote_code and config.get("model_type") not in transformers.CONFIG_MAPPING:
        raise ModelError(
            f"{folder} needs its own Python code ({config.get('model_type', 'unknown model type')}), which is not run by "
            "default. Read the code, then give --trust-remote-code."
        )
    if trust_remote_code and config.get("auto_map") and pinned != (found := code_hash(folder)):
        given = f"--revision {pinned} is another" if pinned else "none was given"
        raise ModelError(
            f"the code in {folder} is run only by its hash ({given}), so that it is the code that you have read. Read its *.py "
            f"files, then give --revision {found}"
        )


def _object(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ModelError for anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {_first_line(error)}. Copy the folder again.") from None
    if not isinstance(found, dict):
        raise ModelError(f"{path} holds no JSON object. Copy the folder again.")
    return found


def _download(model: str, *, trust_remote_code: bool, revision: str | None) -> Path:
    """Folder of the snapshot of a Hugging Face id; downloads what is missing."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if trust_remote_code and not COMMIT.fullmatch(revision or ""):
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
            f"the model {model} cannot be fetched from the model hub: {_first_line(error)} Give a local folder, "
            f"or leave "
            "--model out to use the packaged SmolLM2-135M-Instruct."
        ) from None
    check_folder(folder, trust_remote_code=trust_remote_code, pinned=code_hash(folder))  # the commit pins the code
    return folder


def code_hash(folder: Path) -> str:
    """SHA-256 over the names and bytes of the Python files of a model's folder, 64 hex digits."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(str(file.relative_to(folder)).encode("utf-8", "surrogateescape") + b"\0" + _file_digest(file))
    return digest.hexdigest()


def weights_hash(folder: Path) -> str:
    """What identifies the weights: the commit for a hub snapshot, else SHA-256 over the safetensors files.

    The digest of a local folder is remembered in the cache folder by path, size and time, because hashing takes seconds per
    gigabyte.
    """
    if folder.parent.name == "snapshots" and COMMIT.fullmatch(folder.name):
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


def _check_keys(
    what: str, *, missing: Iterable[str], unexpected: Iterable[str], mismatched: Iterable[str] = (), advice: str
) -> None:
    """Raises ModelError when a file of weights lacks a tensor (it would stay random), or has one that nobody takes."""
    found = (("missing", sorted(missing)), ("of another shape", sorted(mismatched)), ("not known", sorted(unexpected)))
    wrong = [(kind, names) for kind, names in found if names]
    if wrong:
        said = "; ".join(
            f"{len(names)} {kind} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})" for kind, names in wrong
        )
        raise ModelError(f"{what}: {said}. {advice}")


_WHOLE = frozenset({"I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64", "BOOL"})


def _check_floats(model: Any, folder: Path, what: str) -> None:
    """Raises ModelError for a parameter whose file holds whole numbers: loading would take them for weights. The packed weights
    of a quantised model are whole numbers by design.
    """
    if getattr(model.config, "quantization_config", None) is not None:
        return
    parameters = {name for name, parameter in model.named_parameters() if parameter.is_floating_point()}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  # not a mapping
                kind = file.get_slice(name).get_dtype()
                if kind in _WHOLE and (name in parameters or f"{model.base_model_prefix}.{name}" in parameters):
                    raise ModelError(
                        f"{what} are not of a floating-point type: {name} is {kind} in {path.name}. Save the model "
                        "again, or use another checkpoint."
                    )


def _check_finite(model: Any, what: str) -> None:
    """Raises ModelError for weights that are NaN or infinite: nothing measured with them would be a number."""
    for name, parameter in model.named_parameters():
        if parameter.numel() and parameter.is_floating_point():
            low, high = torch.aminmax(parameter.detach())
            if not bool(torch.isfinite(low) & torch.isfinite(high)):
                raise ModelError(
                    f"{what} are not finite: {name} holds NaN or infinity. Copy the files again, or use another checkpoint."
                )


def _check_base(folder: Path, name: str, revision: str, aliases: Collection[str]) -> None:
    """Raises ModelError when an adapter says that it was trained on another base than the model ``name`` (``revision``).

    The record of ``trails train`` says name and hash of the base. Other programs write a name only, of which the last part is
    compared with that of the model and with the names ``aliases`` of its folder.
    """
    record = _object(folder / "train.json") if (folder / "train.json").is_file() else {}
    identity = record.get("identity") or {}
    if identity.get("revision"):
        base, digest = str(identity.get("model", "")), str(identity["revision"])
        if digest != revision:  # a folder may have been renamed, its weights are what was trained
            raise ModelError(
                f"the adapter {folder} was trained on {base} ({digest[:12]}), the model is {name} ({revision[:12]}): its "
                "numbers would be those of neither. Give the model that it was trained on with --model."
            )
        return
    config = _object(folder / "adapter_config.json") if (folder / "adapter_config.json").is_file() else {}
    base = str(config.get("base_model_name_or_path") or "").rstrip("/")
    last = base.rpartition("/")[2].lower()
    if last and last not in {alias.rpartition("/")[2].lower() for alias in (name, *aliases)}:
        raise ModelError(
            f"the adapter {folder} was trained on {base}, the model is {name}. Give its base with --model, or, where it is the "
            "same under another name, write that name to base_model_name_or_path in adapter_config.json."
        )


def _adapted(model: Any, folder: Path) -> tuple[Any, str]:
    """The model with a PEFT LoRA applied, and the hash of the adapter.

    In float32 the adapter is merged into the weights, which changes a logit by rounding only and costs nothing per
    token; in a shorter dtype merging would round the adapter away, so it stays beside them.
    """
    try:
        from peft import PeftModel, get_peft_model_state_dict
    except ImportError:
        raise MissingPackageError("an adapter needs the package peft: pip install 'trails[train]'") from None
    if not (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{folder} has no adapter_config.json, so it is not a PEFT adapter. Give the folder that training wrote."
        )
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        raise ModelError(f"{folder} has no adapter_model.safetensors; adapters saved as pickle are refused.")
    config = _object(folder / "adapter_config.json")
    if config.get("peft_type") != "LORA":
        raise ModelError(
            f"{folder} is a {config.get('peft_type')} adapter; trails measures LoRA adapters. Merge it into the model first."
        )
    with quiet():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # missing keys are an error here, below
                adapted = PeftModel.from_pretrained(model, folder, local_files_only=True)
            with safe_open(weights, "pt") as file:
                kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118  # not a mapping
        except Exception as error:  # files of a stranger
            raise ModelError(f"the adapter {folder} does not fit the model: {_first_line(error)}") from None
    whole = sorted(name for name, kind in kinds.items() if kind in _WHOLE)
    if whole:
        raise ModelError(
            f"the weights of the adapter {folder} are not of a floating-point type: {whole[0]} is {kinds[whole[0]]} in "
            f"{weights.name}. Save the adapter again, or use another one."
        )
    there = set(kinds)
    embeddings = any("embed" in key and ".lora_" not in key for key in there)  # "auto" would ask the model hub
    expected = set(get_peft_model_state_dict(adapted, save_embedding_layers=embeddings))
    _check_keys(
        f"the adapter {folder} does not fit the model",
        missing=expected - there,
        unexpected=there - expected,
        advice="Give the model that it was trained on, or the whole folder that training wrote.",
    )
    if model.dtype == torch.float32:
        return adapted.merge_and_unload(), adapter_digest(folder)
    return adapted.get_base_model(), adapter_digest(folder)


def adapter_digest(folder: Path) -> str:
    """What identifies an adapter wherever one is named (:attr:`trails.schema.Run.adapter`, its card, ``trails status``): 16 hex
    digits over its configuration and its weights. Where the base model was and who wrote the file change no number and do not
    count.
    """
    config = _object(folder / "adapter_config.json")
    config = {k: v for k, v in config.items() if k not in ("base_model_name_or_path", "revision", "inference_mode")}
    weights = _file_digest(folder / "adapter_model.safetensors")
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode() + weights).hexdigest()[:16]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
