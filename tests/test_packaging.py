"""What a user installs: the wheel made from the source distribution carries queries, lexicons, sample and licences."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel built from the sdist, with the build back end that is already installed (no network)."""
    out = tmp_path_factory.mktemp("dist")
    # build makes the sdist first and the wheel from the unpacked sdist
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.mark.slow
def test_every_query_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    shipped = {Path(name).name for name in wheel.namelist() if name.startswith("trails/cypher/")}
    here = {path.name for path in (ROOT / "cypher").rglob("*") if path.is_file()}
    assert len([name for name in here if name.endswith(".cypher")]) >= 9
    assert shipped == here


@pytest.mark.slow
def test_data_files_are_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    package = ROOT / "src" / "trails"
    data = {
        str(Path("trails") / path.relative_to(package))
        for path in package.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert data, "lexicons and sample are data files"
    assert data <= names
    assert any("licen" in name.lower() and "sample" in name for name in names), "the sample carries its licences"


@pytest.mark.slow
def test_the_wheel_carries_the_licence(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("licenses/LICENSE"))
    assert "Apache License" in wheel.read(name).decode()
