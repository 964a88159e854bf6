"""Everything below `/proxy/`: pages, sign-in, members, usage, costs and webhooks."""
