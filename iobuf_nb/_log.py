"""The logger ``iobuf_nb``: what a service that runs for long wants to know of its pools; silent until it is configured.

WARNING: buffers that leak, what was written after a put, compiled code that cannot be cached. INFO: buffers that dead
processes had. DEBUG: what was compiled, and how long that took; the figures of each stream.
"""

from __future__ import annotations

import logging

logger = logging.getLogger("iobuf_nb")
logger.addHandler(logging.NullHandler())
