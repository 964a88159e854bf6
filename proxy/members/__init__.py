"""Members, their tokens and their limits.

Without members there is one, `LOCAL`. Every record has the name of its member.
"""
