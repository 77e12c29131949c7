"""Adds compiled code to a wheel: `IOBUF_NB_COMPILED=1 pip wheel --no-deps .`; without that variable it does nothing.

Such a wheel is for the Python that builds it. The code in it is for the versions of numba and llvmlite that it is built
with; a process that has others, or a lesser processor, ignores it and compiles.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# What `READY_MADE` and `BASELINE` in iobuf_nb/_jit/cache.py say; the package itself may not be imported here.
READY_MADE = "_compiled"
BASELINE = {"NUMBA_CPU_NAME": "x86-64-v2", "NUMBA_CPU_FEATURES": ""}

WARM = "from iobuf_nb._warm import warm; warm(lambda *_: None)"


class CompiledCode(BuildHookInterface[Any]):
    """Hatchling calls it for each wheel."""

    wanted = os.environ.get("IOBUF_NB_COMPILED", "") not in ("", "0")

    def dependencies(self) -> list[str]:
        """Return what compiling needs."""
        return self.metadata.core.dependencies if self.wanted else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile into a temporary folder, and tell hatchling to take that into the wheel."""
        if not self.wanted or version == "editable":
            return
        if sysconfig.get_platform() != "linux-x86_64":
            raise RuntimeError(f"IOBUF_NB_COMPILED is for linux-x86_64, and this is {sysconfig.get_platform()}")
        self.folder = tempfile.TemporaryDirectory()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
        # pip's isolated builds find numba through the path that they set.
        path = os.pathsep.join([self.root, *filter(None, [os.environ.get("PYTHONPATH")])])
        environment |= {**BASELINE, "NUMBA_CACHE_DIR": self.folder.name, "PYTHONPATH": path}
        subprocess.run([sys.executable, "-c", WARM], env=environment, cwd="/", check=True)
        build_data["force_include"][os.path.join(self.folder.name, "iobuf_nb")] = f"iobuf_nb/{READY_MADE}"
        # There is no library in it that is linked to others: it runs wherever numba's own wheels do.
        build_data["tag"] = f"cp{sys.version_info[0]}{sys.version_info[1]}-none-manylinux_2_17_x86_64"
        build_data["pure_python"] = False

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the temporary folder."""
        if hasattr(self, "folder"):
            self.folder.cleanup()
