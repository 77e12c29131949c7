"""Wheels: the plain one, and the one that carries compiled code."""

import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from support import Process, python

pytestmark = [pytest.mark.compiled, pytest.mark.proof]

ROOT = Path(__file__).parents[2]


def built(target, folder, **settings):
    """Return the path of what hatchling builds of this library."""
    done = python("-m", "hatchling", "build", "-t", target, "-d", str(folder), cwd=ROOT, **settings)
    assert done.returncode == 0, done.stderr
    (path,) = folder.iterdir()
    return path


def test_the_plain_wheel_has_no_compiled_code(tmp_path):
    wheel = zipfile.ZipFile(built("wheel", tmp_path, IOBUF_NB_COMPILED="0"))
    names = wheel.namelist()
    assert wheel.filename.endswith("-py3-none-any.whl") and not [name for name in names if "_compiled" in name]
    (folder,) = {name.split("/")[0] for name in names} - {"iobuf_nb"}
    assert "iobuf_nb/py.typed" in names and f"{folder}/licenses/LICENSE" in names
    assert "\nLicense-Expression: MIT\n" in wheel.read(f"{folder}/METADATA").decode()


def test_the_source_distribution_has_what_building_and_tests_and_documents_need(tmp_path):
    with tarfile.open(built("sdist", tmp_path)) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert {".ci/wheel_hook.py", "docs/conf.py", "notebooks/01-tour.ipynb", "docs/notebooks/01-tour.ipynb"} <= names
    assert not [name for name in names if "cache" in name.split("/")[0]]


USED = """
@njit
def work(pool, magazine):
    index = pool.get()
    pool.put(index)
    magazine.put(magazine.get())
    return index

pool = BufferPool(2, 64)
with pool.magazine() as mine:
    pool.put(pool.get()), mine.put(mine.get())
    print(work(pool, mine) >= 0, c_methods.WHY_NOT)
"""


@pytest.mark.long
@pytest.mark.skipif(sysconfig.get_platform() != "linux-x86_64", reason="wheels with code are for Linux on x86-64")
def test_with_the_code_of_a_wheel_nothing_is_compiled(tmp_path):
    wheel = built("wheel", tmp_path / "dist", IOBUF_NB_COMPILED="1")
    assert wheel.name.endswith(f"-cp3{sys.version_info[1]}-none-manylinux_2_17_x86_64.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")

    def used(**settings):
        """Return whether anything was saved in an empty cache."""
        settings = {"PYTHONPATH": str(tmp_path / "site"), "NUMBA_CACHE_DIR": str(tmp_path / "cache"), **settings}
        assert Process(USED, **settings).output() == "True None"
        return (tmp_path / "cache").exists()

    assert not used()
    assert used(NUMBA_CPU_NAME="x86-64", NUMBA_CPU_FEATURES="")  # a lesser processor
