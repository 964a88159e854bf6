"""The local ComfyUI API: aiohttp handlers, one module a resource, one table of routes."""
