"""Threads: no other module of the server starts one.

Work that blocks goes to the threads of the event loop (`asyncio.to_thread`) or of a `pool`. Work
whose length a client or the cloud has chosen takes turns (`proxy.sharing.turns`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def pool(count: int, name: str) -> ThreadPoolExecutor:
    """Return threads of one task, for `run_in_executor` of the event loop."""
    return ThreadPoolExecutor(count, thread_name_prefix=name)


def start(target: Callable[[], None], name: str) -> threading.Thread:
    """Start a thread that does not keep the process alive, and return it."""
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    return thread
