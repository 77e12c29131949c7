"""The documents tell the truth: code runs and prints what they say, names and links exist, all names are explained."""

import ast
import inspect
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import report
from support import PACKAGE, environment, python, said, why_no_io_uring

import iobuf_nb
from iobuf_nb import events

ROOT = Path(__file__).parents[1]
README, DOCS = ROOT / "README.md", ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md")) + sorted(DOCS.glob("api/*.md"))
MODULES = [path.stem for path in sorted(PACKAGE.glob("[a-z]*.py"))]
PROSE = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md", report.README, *PAGES]


def blocks(page):
    """Return the Python blocks of a page, each with the output that follows it, if there is one."""
    return re.findall(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.proof
@pytest.mark.compiled
@pytest.mark.parametrize("page", [page for page in [README, *PAGES] if blocks(page)], ids=lambda page: page.stem)
def test_the_code_of_a_page_runs_and_prints_what_it_says(page, tmp_path, monkeypatch, capsys):
    if page.stem == "uring" and why_no_io_uring():
        pytest.skip(why_no_io_uring())
    monkeypatch.chdir(tmp_path)  # it writes files
    names = {}
    for code, output in blocks(page):
        if page == README:
            names = {}  # there each block is a program
        exec(compile(code, page.name, "exec"), names)
        printed = capsys.readouterr().out
        assert not output or printed == output


def programs(page):
    blocks = re.findall(r"^```py\n# (\w+\.py)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [pytest.param(source, id=name) for name, source in blocks]


PROGRAMS = [case for page in PAGES for case in programs(page)]


@pytest.mark.proof
@pytest.mark.compiled
@pytest.mark.parametrize("source", PROGRAMS)
def test_the_programs_of_the_guides_run(source, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(source)
    done = subprocess.run([sys.executable, program], env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    said = {
        "average": r"4\.5",
        "camera": r"(499|500) of 500 frames measured; 8 of 8 buffers free",
        "executor": r"\[0\.0, 1\.0, .*, 7\.0\]",
        "collector": r"1 damaged(\n127\.0\.0\.\d sent 1\d packets of \d+ bytes, 2[-\d]+T[:.\d]+){3}",
        "echo": "one\ntwo\nthree\n3 connections",
        "traffic": "12 hosts, 160,000 requests, 39,940 failed, 399,370,830 bytes; the same on both",
        "pools": r"\[0\.0, 1\.0, 2\.0, 3\.0\]\n0 reports of buffers that were not put back",
        "leak": r"\{0: '.*program\.py:10'\}",
        "parts": "4 parts hold 99,994 readings, as one file does",
    }
    assert any(re.fullmatch(expected, done.stdout.strip()) for expected in said.values()), done.stdout
    # Dask may log that a connection was closed while its cluster ends, which is no error of the program.
    assert "Warning" not in done.stderr and ("distributed" in source or "Error" not in done.stderr)


@pytest.mark.proof
def test_the_program_to_debug_runs_with_the_jit_off(tmp_path):
    ((source,),) = (case.values for case in programs(DOCS / "debugging.md"))
    (tmp_path / "average.py").write_text(source)
    assert said(str(tmp_path / "average.py"), NUMBA_DISABLE_JIT="1") == "4.5"


def test_the_timer_of_the_guide_to_sockets_rings():
    (fragment,) = re.findall(r"^```py\n(?!# )(.*?)^```", (DOCS / "sockets.md").read_text(), re.MULTILINE | re.DOTALL)
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        names = {"events": events, "np": np, "server": server}
        exec(fragment, names)
        os.close(names["timer"])
    assert names["ticks"] >= 1


@pytest.mark.parametrize("source", PROGRAMS)
def test_kernels_of_the_guides_take_no_record_of_an_array_that_is_gone(source):
    """numba frees an array of a kernel after its last use; a record in it, such as an address, does not count."""
    kernels = [node for node in ast.walk(ast.parse(source)) if getattr(node, "decorator_list", None)]
    entries = [node for kernel in kernels for node in ast.walk(kernel) if isinstance(node, ast.Subscript)]
    assert not [text for text in map(ast.unparse, entries) if re.match(r"np\.(zeros|empty)\(.*\)\[", text)]


def test_the_names_in_the_table_from_go_exist():
    table = (DOCS / "from-go.md").read_text().split("\n\n")[2]
    objects = [iobuf_nb, iobuf_nb.BufferPool(2, 16), iobuf_nb.Backoff(), iobuf_nb.SpinWait()]
    cells = [row.split("|")[2] for row in table.splitlines()[2:]]
    names = {name for cell in cells for name in re.findall(r"`(?:pool\.)?(\w+)", cell)}
    assert {"BufferPool", "try_get", "set_value", "aligned_mem_blocks", "nonblocking"} <= names
    for name in names:
        assert any(hasattr(item, name) for item in objects), name


def test_the_arguments_in_the_table_of_streams_exist():
    page = (DOCS / "streams.md").read_text()
    table = page.split("\n\n| I want")[1].split("\n\n")[0]
    arguments = {name for row in table.splitlines() for name in re.findall(r"[`, ](\w+)=[^=]", row)}
    assert {"dtype", "delimiter", "per_file", "output", "overlap", "stop", "decompress"} <= arguments
    assert arguments <= set(inspect.signature(iobuf_nb.stream).parameters)
    results = set(re.findall(r"`result\.(\w+)", page))
    assert {"state", "names", "collected", "mapped"} <= results
    assert results <= set(iobuf_nb.StreamResult.__dataclass_fields__)


def test_the_tier_table_is_right():
    rows = re.findall(r"\| `Tier\.(\w+)` \| (\d+) \|", (DOCS / "choosing.md").read_text())
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


def slug(heading):
    """Return the anchor of a heading, as GitHub and Sphinx make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def prose(path):
    """Return a document without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(path):
    """Return the anchors of a document, those of what it includes among them."""
    found = {slug(heading) for heading in re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)}
    for name in re.findall(r"^```{include} (\S+)$", path.read_text(), re.MULTILINE):
        found |= anchors((path.parent / name).resolve())
    return found


@pytest.mark.parametrize("page", PROSE, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    missing = []
    for link in links:
        if re.match(r"https?:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            missing.append(link)
    assert not missing


def test_every_page_can_be_reached_from_the_first():
    def below(page):
        found = {page}
        for block in re.findall(r"^```{toctree}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            for entry in re.findall(r"^[^:\n].*$", block, re.MULTILINE):
                for other in page.parent.glob(f"{entry}.md") if "*" in entry else [page.parent / f"{entry}.md"]:
                    found |= below(other)
        return found

    assert below(DOCS / "index.md") == set(PAGES)


def test_every_public_name_has_its_place_in_the_reference():
    text = "".join(page.read_text() for page in DOCS.glob("api/*.md"))
    explained = set(re.findall(r"^\.\. auto\w+:: (\S+)$", text, re.MULTILINE)) | set(re.findall(r"`(\w+)`", text))
    missing = [name for name in iobuf_nb.__all__ if name not in explained and f"iobuf_nb.{name}" not in explained]
    assert not missing + [name for name in MODULES if f"iobuf_nb.{name}" not in explained]
    listed = (DOCS / "api" / "index.md").read_text().split(".. autosummary::")[1]
    called = {item.__name__ for item in map(vars(iobuf_nb).get, iobuf_nb.__all__) if callable(item)}
    assert set(re.findall(r"^   (\w+)$", listed, re.MULTILINE)) == called


@pytest.mark.parametrize("name", MODULES)
def test_the_reference_of_a_module_has_its_constants_and_what_its_classes_inherit(name):
    module = pytest.importorskip(f"iobuf_nb.{name}", exc_type=ImportError)  # one is an extra
    items = {each: getattr(module, each) for each in module.__all__}
    constants = [each for each, item in items.items() if not callable(item)]
    assert not [each for each in constants if not re.search(rf"\b{each}\b", module.__doc__)]
    bases = {base for item in items.values() if inspect.isclass(item) for base in item.__mro__[1:]}
    inherited = [each for base in bases if base.__module__[:8] == "iobuf_nb" for each in vars(base) if each[0] != "_"]
    assert ":inherited-members:" in (DOCS / "api" / f"{name}.md").read_text() or not inherited


@pytest.mark.parametrize("name", ["iobuf_nb", *(f"iobuf_nb.{name}" for name in MODULES)])
def test_sentences_stand_in_sections_for_sentences(name):
    """Among parameters or errors, the reference would take each line of them for one of these."""
    module = pytest.importorskip(name, exc_type=ImportError)
    items = [getattr(module, each) for each in module.__all__]
    bases = {base for item in items if inspect.isclass(item) for base in item.__mro__}
    items += [member for base in bases if base.__module__[:8] == "iobuf_nb" for member in vars(base).values()]
    wrong = []
    for text in filter(None, map(inspect.getdoc, items)):
        _, *sections = re.split(r"^(?=\w+\n---+$)", text, flags=re.MULTILINE)
        for section in sections:
            if not section.startswith(("Notes", "Examples")):
                wrong += re.findall(r"^\S.*\.$", section, re.MULTILINE)
    assert not wrong


def test_commands_and_extras_of_the_documents_exist():
    text = "".join(page.read_text() for page in PROSE)
    commands = set(re.findall(r"python -m iobuf_nb (\w+)", text))
    assert {"scan", "warm", "shared"} <= commands
    assert commands <= set(re.findall(r'add_parser\(\s*"(\w+)"', (PACKAGE / "__main__.py").read_text()))
    extras = {name for names in re.findall(r"'(?:\.|iobuf-nb)\[([\w,]+)\]'", text) for name in names.split(",")}
    optional = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("\n[")[0]
    assert {"uring", "docs"} <= extras <= set(re.findall(r"^(\w+) = ", optional, re.MULTILINE))


def test_the_version_is_the_same_everywhere():
    assert f"\nversion: {iobuf_nb.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {iobuf_nb.__version__} (" in (ROOT / "CHANGELOG.md").read_text()


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 180


@pytest.mark.long
def test_the_documentation_is_built_without_a_warning(tmp_path):
    pytest.importorskip("sphinx", reason="needs the extra docs")
    done = python("-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(DOCS), str(tmp_path / "html"), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "holding_processes" in (tmp_path / "html" / "api" / "pools.html").read_text()
