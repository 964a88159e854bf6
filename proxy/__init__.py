"""A server that answers like a local ComfyUI and runs every workflow on Comfy Cloud."""

__version__ = "0.2.0.dev0"
