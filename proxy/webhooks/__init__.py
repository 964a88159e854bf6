"""Webhooks: what happens is sent to the addresses of those who want to know it.

The api's half adds endpoints (`endpoints.py`); the engine's half writes messages (`outbox.py`) and
delivers them (`delivery.py`).
"""
