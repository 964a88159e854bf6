"""Who is behind the clients: members, their tokens, their limits.

Without tokens there is one member, `LOCAL`. Every record carries the name of its member.
"""
