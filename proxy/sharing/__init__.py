"""What is shared among owners: memory, pools, and turns on the event loop and at the database.

An owner (`owners.py`) is a member, an address, all strangers together, or the engine.
"""
