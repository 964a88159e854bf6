"""Measures what the documents of Comfy Cloud leave open, with the user's own key."""
