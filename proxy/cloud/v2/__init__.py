"""Deployments of Comfy, which speak API v2."""
