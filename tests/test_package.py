"""The wheel is complete, and imports outside of the repository."""

import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

import jdmm

ROOT = Path(__file__).parent.parent
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
BUILT_FROM = ("pyproject.toml", "requirements.txt", "README.md", "LICENSE")
FOLDERS = ("jdmm", "benchmarks", "configs", "tests")
"""The package, and folders that must stay out of its wheel."""

IMPORT_ALL = """
import importlib, pkgutil, jdmm
for module in pkgutil.walk_packages(jdmm.__path__, "jdmm."):
    importlib.import_module(module.name)
print(jdmm.__file__, jdmm.__version__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the tree, so that the repository stays clean."""
    copy, built = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for name in BUILT_FROM:
        shutil.copy(ROOT / name, copy)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(
        [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", built, copy],
        check=True,
        cwd=built,
    )
    (path,) = built.glob("jdmm-*.whl")
    return path


def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [archive.read(n) for n in archive.namelist() if n.endswith("/licenses/LICENSE")]
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "jdmm").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "jdmm/py.typed" in expected
    assert files == expected
    assert licences == [(ROOT / "LICENSE").read_bytes()]


def test_its_metadata(wheel):
    found = metadata(wheel)
    assert found["License-Expression"] == "Apache-2.0"
    assert found["Version"] == jdmm.__version__
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    required = {each for each in found.get_all("Requires-Dist", []) if "extra ==" not in each}
    assert required == {line for line in lines if line and not line.startswith("#")}


def test_it_is_installed_and_imported_outside_of_the_repository(wheel, tmp_path):
    target = tmp_path / "installed"
    install = [*PIP, "install", "--no-deps", "--no-index", "--target", target, wheel]
    subprocess.run(install, check=True)
    imported = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(target)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert imported.stdout.split() == [str(target / "jdmm" / "__init__.py"), jdmm.__version__]


def test_the_citation_and_the_changelog_name_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == jdmm.__version__
    assert citation["license"] == "Apache-2.0"
    assert {"type", "title", "authors"} <= citation["preferred-citation"].keys()
    assert f"\n## {jdmm.__version__}" in (ROOT / "CHANGELOG.md").read_text()
