"""Each ordering of shared words has a label, and names its partners and the deliberate bugs that weaken it."""

import ast
import re
from pathlib import Path

import pytest

import iobuf_nb

PACKAGE = Path(iobuf_nb.__file__).parent
FILES = [
    PACKAGE / "_memory" / "process_slots.py",
    *sorted((PACKAGE / "_free").glob("*.py")),
    *(
        PACKAGE / "_pools" / f"{name}.py"
        for name in ("aio", "bounded_queue", "channel", "index_pool", "magazine", "value_queue")
    ),
    *sorted((PACKAGE / "_streams").glob("*.py")),
]
ACCESSES = {"load", "store", "compare_and_swap", "swap", "fetch_add", "fetch_or", "fetch_and", "fence"}
LABEL = r"[A-Z]\d+"
LABELS = rf"{LABEL}(?:, {LABEL})*"
SAYS = re.compile(
    rf"\b({LABELS}) (?:(releases? to|acquires? from|(?:is|are) ordered with) ({LABELS})|(only counts|reads a constant))"
)


def comments(text):
    """Return the comments by the number of the line below or beside them, those in a row as one."""
    found, row = {}, []
    for number, line in enumerate(text.splitlines(), 1):
        code, sign, comment = line.partition("#")
        if sign and not code.strip():
            row.append(comment.strip())
        else:
            found[number] = " ".join([*row, *([comment.strip()] if sign else [])])
            row = []
    return found


def accesses(text):
    """Return (line of the statement, line, name) of each access with an ordering."""
    for statement in ast.walk(ast.parse(text)):
        if isinstance(statement, ast.stmt) and not isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            parts = [node for node in ast.iter_child_nodes(statement) if not isinstance(node, ast.stmt)]
            for node in (node for part in parts for node in ast.walk(part)):
                if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") in ACCESSES):
                    continue
                if not any(isinstance(each, ast.Constant) and each.value == "relaxed" for each in node.args):
                    yield statement.lineno, node.lineno, node.func.id


def statements(text):
    """Return (labels, relation, partners) for all that the comments say of orderings."""
    for comment in comments(text).values():
        for labels, relation, partners, alone in SAYS.findall(comment):
            yield labels.split(", "), alone or relation, partners.split(", ") if partners else []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_ordering_has_a_label(path):
    text = path.read_text()
    told = comments(text)
    bare = [
        f"{path.name}:{line}: {name}"
        for first, line, name in accesses(text)
        if not SAYS.search(" ".join(told.get(number, "") for number in range(first, line + 1)))
    ]
    assert not bare, "\n".join(bare)


def test_partners_name_each_other():
    pairs, labels = set(), set()
    for path in FILES:
        for own, relation, partners in statements(path.read_text()):
            labels.update(own)
            kind = {"r": "release", "a": "acquire"}.get(relation.removeprefix("are ")[0], "is")
            pairs.update((one, kind, other) for one in own for other in partners)
    back = {"release": "acquire", "acquire": "release", "is": "is"}
    missing = [
        f"{one} {kind} {other}"
        for one, kind, other in sorted(pairs)
        if other not in labels or (other, back[kind], one) not in pairs
    ]
    assert not missing, "\n".join(missing)


def test_the_bugs_that_orderings_name_exist(bugs):
    named = set()
    for path in FILES:
        for comment in comments(path.read_text()).values():
            if "Mutant" in comment:
                named.update(re.findall(r'"([^"]+)"', comment.partition("Mutant")[2]))
    assert named <= bugs and len(named) >= 90, named - bugs


@pytest.fixture
def bugs():
    """The names of all mutants, read from their source: to import it needs the JIT off."""
    source = "".join(path.read_text() for path in Path(__file__).parent.glob("mutants*.py"))
    return {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
