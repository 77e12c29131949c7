"""What a stranger may count on: files are short, and only what is public has a public name."""

import ast
import io
import tokenize
from pathlib import Path

import pytest
from support import PACKAGE, python

pytestmark = pytest.mark.compiled  # or not: it reads files

REPOSITORY = Path(__file__).parents[1]
MOST_LINES = 400
PUBLIC = {"__main__", "atomics", "dask", "events", "sockets", "syscalls", "text", "uring"}
#: Tokens that make no line a line of code.
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def lines_of_code(source):
    """Count the lines of a source that are neither blank nor comments nor docstrings."""
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", None), str):
                docstrings |= set(range(first.lineno, first.end_lineno + 1))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    code = {k for token in tokens if token.type not in NO_CODE for k in range(token.start[0], token.end[0] + 1)}
    return len(code - docstrings)


SOURCE = '''"""A docstring
of two lines."""

# A comment.
x = """
text
"""  # four lines of code, with `def`, and below them three


def f():
    """Say."""
    return (
        x
    )
'''


def test_lines_are_counted_without_what_only_explains():
    assert lines_of_code(SOURCE) == 7


@pytest.mark.parametrize("folder", ["iobuf_nb", "tests", "bench"])
def test_no_file_is_long(folder):
    counts = {str(path): lines_of_code(path.read_text()) for path in (REPOSITORY / folder).rglob("*.py")}
    assert counts and not {path: n for path, n in counts.items() if n > MOST_LINES}


def test_the_tests_of_the_reduced_form_are_there():
    arguments = "-m", "pytest", "@tests/reduced.txt", "--collect-only", "-q", "-p", "no:cacheprovider"
    found = python(*arguments, cwd=REPOSITORY)
    assert found.returncode == 0 and " tests collected" in found.stdout, found.stderr


def test_only_what_users_import_has_a_public_name():
    places = [path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py")]
    hidden = [any(part.startswith("_") and not part.endswith("__") for part in place.parts) for place in places]
    public = {".".join(place.parts) for place, is_hidden in zip(places, hidden, strict=True) if not is_hidden}
    assert public - {"__init__"} == PUBLIC
