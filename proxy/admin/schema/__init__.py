"""The JSON that `/proxy/api` answers with, as types. `docs/openapi.json` is drawn from them.

Times are ms since 1970. Types of what members and tokens are made of are in
`proxy/members/member.py`.
"""
