"""The wheel carries the configs, and they are found by name where only the wheel is."""

import subprocess
import sys
import zipfile

import pytest

from medssl.core.config import config_root
from tests.support import ROOT, fresh_python

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", folder, ROOT], check=True)
    return next(folder.glob("*.whl"))


def test_wheel_holds_every_config_and_nothing_beside_the_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    shipped = {f"medssl/configs/{f.parent.name}/{f.name}" for f in config_root().glob("*/*.yaml")}
    assert shipped
    assert shipped <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"medssl"}


def test_installed_wheel_reads_a_config_by_name(wheel, tmp_path):
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", site, wheel], check=True)
    stage, name = next((f.parent.name, f.stem) for f in sorted(config_root().glob("*/*.yaml")))
    code = (
        "import medssl; from medssl.core.config import read_yaml; print(medssl.__file__);"
        f"values, where = read_yaml({stage!r}, {name!r}); assert values; print(where)"
    )
    lines = fresh_python(code, env={"PYTHONPATH": str(site)}, cwd=tmp_path).splitlines()
    assert all(line.startswith(str(site)) for line in lines)


def test_a_sdist_builds_the_same_wheel_content(wheel, tmp_path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", tmp_path, next(tmp_path.glob("*.tar.gz"))], check=True)
    again = next(tmp_path.glob("*.whl"))
    assert zipfile.ZipFile(again).namelist() == zipfile.ZipFile(wheel).namelist()
