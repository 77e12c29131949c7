"""What a new process pays for a shared pool until its first get, and for its imports before that."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path

from iobuf_nb import BufferPool

from ..names import ATTACH, BUFFER, IMPORT_IN_CHILD, ITEMS
from ..startup import execute
from ..table import Settings, Table
from ..workloads.processes import PROCESS_START

SCRIPT = """
import pickle, time
start = time.process_time()
import iobuf_nb
imported = time.process_time()
pool = pickle.loads(bytes.fromhex({pickled!r}))
index = pool.get()
done = time.process_time()
pool.put(index)
print(imported - start, done - imported)
"""


def run(settings: Settings) -> list[Table]:
    """Measure in new processes, which share a cache; the first fills it and does not count."""
    table = Table(PROCESS_START)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        pool = BufferPool(ITEMS, BUFFER, shared=True)
        (folder / "attach.py").write_text(SCRIPT.format(pickled=pickle.dumps(pool).hex()))
        for run in range(4 if settings.quick else 16):
            taken = map(float, execute("attach", folder, folder / "cache").split())
            for name, seconds in zip((IMPORT_IN_CHILD, ATTACH), taken, strict=True):
                if run:
                    table.samples.setdefault(name, []).append(seconds)
    return [table]
