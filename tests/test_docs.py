"""The documents tell the truth: README code runs, its names exist, every public name is explained."""

import ast
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import report
from support import environment

import iobuf_nb

README_FILE = Path(__file__).parents[1] / "README.md"
README = README_FILE.read_text()
DOCS = README_FILE.parent / "docs"


@pytest.mark.proof
@pytest.mark.compiled
def test_the_code_in_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it writes files
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 4
    names = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert names["pool"].available() == 1024 and not names["frames"].holders()


def programs(page):
    blocks = re.findall(r"^```py\n# (\w+\.py)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [pytest.param(source, id=name) for name, source in blocks]


@pytest.mark.proof
@pytest.mark.compiled
@pytest.mark.parametrize("source", [case for page in sorted(DOCS.glob("*.md")) for case in programs(page)])
def test_the_programs_of_the_guides_run(source, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(source)
    done = subprocess.run([sys.executable, program], env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    said = {
        "camera": r"(499|500) of 500 frames measured; 8 of 8 buffers free",
        "executor": r"\[0\.0, 1\.0, .*, 7\.0\]",
        "collector": r"1 damaged(\n127\.0\.0\.\d sent 1\d packets of \d+ bytes, 2[-\d]+T[:.\d]+){3}",
        "echo": "one\ntwo\nthree\n3 connections",
        "traffic": "12 hosts, 160,000 requests, 39,940 failed, 399,370,830 bytes; the same on both",
        "pools": r"\[0\.0, 1\.0, 2\.0, 3\.0\]\n0 reports of buffers that were not put back",
        "parts": "4 parts hold 99,994 readings, as one file does",
    }
    assert any(re.fullmatch(expected, done.stdout.strip()) for expected in said.values()), done.stdout
    assert "Error" not in done.stderr and "Warning" not in done.stderr


@pytest.mark.parametrize("source", [case for page in sorted(DOCS.glob("*.md")) for case in programs(page)])
def test_kernels_of_the_guides_take_no_record_of_an_array_that_is_gone(source):
    """numba frees an array of a kernel after its last use; a record in it, such as an address, does not count."""
    kernels = [node for node in ast.walk(ast.parse(source)) if getattr(node, "decorator_list", None)]
    entries = [node for kernel in kernels for node in ast.walk(kernel) if isinstance(node, ast.Subscript)]
    assert not [text for text in map(ast.unparse, entries) if re.match(r"np\.(zeros|empty)\(.*\)\[", text)]


def test_the_names_in_the_table_from_go_exist():
    table = README.split("## From Go")[1].split("\n\n")[1]
    objects = [iobuf_nb, iobuf_nb.BufferPool(2, 16), iobuf_nb.Backoff(), iobuf_nb.SpinWait()]
    cells = [row.split("|")[2] for row in table.splitlines()[2:]]
    names = {name for cell in cells for name in re.findall(r"`(?:pool\.)?(\w+)", cell)}
    assert {"BufferPool", "try_get", "set_value", "aligned_mem_blocks", "nonblocking"} <= names
    for name in names:
        assert any(hasattr(item, name) for item in objects), name


def test_the_arguments_in_the_table_of_streams_exist():
    table = README.split("\n## Streams")[1].split("\n\n| I want")[1].split("\n\n")[0]
    arguments = {name for row in table.splitlines() for name in re.findall(r"[`, ](\w+)=[^=]", row)}
    assert {"dtype", "delimiter", "per_file", "output", "overlap", "stop", "decompress"} <= arguments
    assert arguments <= set(inspect.signature(iobuf_nb.stream).parameters)
    results = set(re.findall(r"`result\.(\w+)", README))
    assert {"state", "names", "collected", "mapped"} <= results
    assert results <= set(iobuf_nb.StreamResult.__dataclass_fields__)


def test_the_tier_table_is_right():
    rows = re.findall(r"\| `Tier\.(\w+)` \| (\d+) \|", README)
    assert [(tier.name, str(tier.size)) for tier in iobuf_nb.Tier] == rows


def public():
    for name in iobuf_nb.__all__:
        item = getattr(iobuf_nb, name)
        yield name, item
        if inspect.isclass(item):
            for attribute, member in vars(item).items():
                if not attribute.startswith("_") and (callable(member) or isinstance(member, property)):
                    yield f"{name}.{attribute}", member


def test_every_public_name_is_explained():
    missing = [name for name, item in public() if not isinstance(item, int) and not inspect.getdoc(item)]
    assert not missing


def test_the_figures_of_the_proofs_are_those_that_were_measured():
    text = report.README.read_text()
    assert report.with_figures(text, json.loads(report.RESULTS.read_text())) == text
