"""What jobs cost, in credits.

All amounts are whole millionths of a credit (`credits.py`). Each figure has a `Source`: `reported`
by Comfy Cloud, `estimated` by the proxy, or `unknown`. The pure modules have no I/O and no clock.
"""
