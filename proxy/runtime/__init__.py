"""What every room builds on: time, randomness, threads, processes, and tasks that are supervised.

Nothing here knows of ComfyUI, of Comfy Cloud or of members.
"""
