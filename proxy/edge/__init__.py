"""The edge: listening, TLS, connections, and what their owners may use at once."""
