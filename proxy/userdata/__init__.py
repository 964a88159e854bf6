"""A member's own files and settings on the proxy's disk, as a local ComfyUI keeps them."""
