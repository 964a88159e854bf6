"""A server that answers like a local ComfyUI and runs every workflow on Comfy Cloud."""

import sys

__version__ = "0.2.0.dev0"

if "structlog" not in sys.modules and "rich" not in sys.modules:
    # structlog loads rich and pygments where it finds them, to draw tracebacks that we do not ask
    # for: 5 MB of every server.
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        import structlog  # noqa: F401
    finally:
        del sys.modules["rich"]
