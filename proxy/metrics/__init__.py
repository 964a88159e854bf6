"""What the proxy counts, in Prometheus' format: counted where it happens, read when it is asked."""
