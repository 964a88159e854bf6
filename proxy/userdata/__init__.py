"""A member's own files and settings, as a local ComfyUI keeps them: on disk, or in the account."""
