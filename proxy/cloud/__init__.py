"""All connections to Comfy Cloud."""
