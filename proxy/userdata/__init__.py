"""A member's files and settings, stored in the proxy's database or in the account."""
