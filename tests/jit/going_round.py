"""Finds where the library's lock-free code goes round the seam of the model checker (`iobuf_nb._jit.seam`).

Looked at are all functions of ``_free``, and those of ``_pools`` that kernels have. Shared words are to be touched by
the functions of `atomics` and `parking` alone, and clocks, identities and spins are to be had from them and the other
rooms of the package: whatever comes from elsewhere, the checker does not see.
"""

import ast
import builtins

#: The arrays that threads share, as members of handles and as parameters.
SHARED = {
    "_words",
    "_cells",
    "_owners",
    "_bulks",
    "_deques",
    "_members",
    "_magazines",
    "words",
    "owners",
    "bulks",
    "deques",
}
#: Marks of what kernels have.
MARKS = {"hot", "kernel", "in_kernels"}
#: What may be used that is not of the package: nothing in there knows of time, threads or memory.
HARMLESS = {"builtins", "collections", "functools", "math", "numba", "numpy", "operator", "typing"}
#: What may be used of the rooms' modules in which things lie on this side of the seam.
OF_MODULE = {"instructions": {"plus", "minus", "times", "wrap"}, "libc": set(), "seam": set()}

#: What is outside, and why.
OUTSIDE = {
    "_free/deque.py:mend": "runs in a forked child, where no other thread is",
    "_free/deque.py:indices": "runs in a forked child, where no other thread is",
    "_free/depot.py:lay_out": "makes the words, which no other thread has yet",
    "_free/depot.py:_parts": "is for those who make the words, or mend them in a forked child",
    "_free/owners.py:restore": "runs in a forked child, where no other thread is",
    "_free/owners.py:bulk_words": "makes the words, which no other thread has yet",
    "_free/owners.py:by_index": "takes a snapshot to show, and promises no more",
    "_free/processes.py:thread_of": "names a thread to people, who read it later",
    "_free/observation.py:first_change": "reads a buffer, not words",
    "_free/observation.py:count_put": "fills a buffer, not words",
}


def imported(tree):
    """Return where each name of a module comes from: (module, name), name None for the module itself."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                found[each.asname or each.name.partition(".")[0]] = each.name, None
        elif isinstance(node, ast.ImportFrom):
            for each in node.names:
                found[each.asname or each.name] = "." * node.level + (node.module or ""), each.name
    return found


def stranger(module, name):
    """Return why a name from this module is not to be used, or nothing."""
    if not module.startswith("."):
        return "" if module.partition(".")[0] in HARMLESS else "is of no room"
    last = module.rpartition(".")[2] or name
    if name and name.startswith("_"):
        return "is private to its module"
    return "" if name in OF_MODULE.get(last, {name}) and name not in OF_MODULE else "lies on this side of the seam"


class Function:
    """One function: `complaints` says where it goes round."""

    def __init__(self, body, names):
        self.names, self.shared, self.complaints = names, set(SHARED), []
        nodes = [node for statement in body for node in ast.walk(statement)]
        for node in nodes:  # other names of shared words, before it is looked where they are used
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    self.name(target, node.value)
            elif isinstance(node, (ast.NamedExpr, ast.AnnAssign)) and node.value is not None:
                self.name(node.target, node.value)
        for node in nodes:
            self.look(node)

    def name(self, target, value):
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            for pair in zip(target.elts, value.elts, strict=True):
                self.name(*pair)
        elif isinstance(target, ast.Name) and self.is_shared(value):
            self.shared.add(target.id)

    def is_shared(self, node):
        if isinstance(node, ast.NamedExpr):
            return self.is_shared(node.value)
        if isinstance(node, ast.Attribute):
            return node.attr in SHARED
        return isinstance(node, ast.Name) and node.id in self.shared

    def complain(self, node, what):
        self.complaints.append((node.lineno, f"{ast.unparse(node)} {what}"))

    def look(self, node):
        if isinstance(node, (ast.Subscript, ast.Attribute, ast.Starred)) and self.is_shared(node.value):
            self.complain(node, "touches shared words without atomics")
        elif isinstance(node, (ast.For, ast.comprehension)) and self.is_shared(node.iter):
            self.complain(node.iter, "walks over shared words without atomics")
        elif isinstance(node, ast.Call) and any(map(self.is_shared, node.args)):
            called = node.func
            while isinstance(called, ast.Attribute):
                called = called.value
            module = self.names.get(called.id, (".",))[0] if isinstance(called, ast.Name) else "."
            if not module.startswith(".") or getattr(called, "id", "") in vars(builtins):
                self.complain(node, "hands shared words to what is of no room")
        elif isinstance(node, ast.Name) and node.id in self.names:
            if why := stranger(*self.names[node.id]):
                self.complain(node, why)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            self.complain(node, "is an import in the midst of a function")


def is_marked(node):
    return any(isinstance(mark, ast.Name) and mark.id in MARKS for mark in node.decorator_list)


def ways_round(source, all_of_it):
    """Return (function, line, what it does) for each way round the seam; `all_of_it`, or what kernels have alone."""
    tree = ast.parse(source)
    names = imported(tree)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Lambda) and all_of_it:
            found += [("lambda", *complaint) for complaint in Function([node.body], names).complaints]
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and (all_of_it or is_marked(node)):
            found += [(node.name, *complaint) for complaint in Function(node.body, names).complaints]
    return found


def in_package(package):
    """Return all ways round the seam in a package but those of OUTSIDE, and which functions of that do go round."""
    found, outside = [], set()
    for room in ("_free", "_pools"):
        for path in sorted((package / room).glob("*.py")):
            for name, line, what in ways_round(path.read_text(), room == "_free"):
                place = f"{room}/{path.name}:{name}"
                if place in OUTSIDE:
                    outside.add(place)
                else:
                    found.append(f"{room}/{path.name}:{line}: {what}")
    return found, outside
