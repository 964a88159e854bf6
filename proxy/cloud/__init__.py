"""The only room that opens connections to Comfy Cloud."""
