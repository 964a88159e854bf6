"""Nodes that desktop clients bring along, and what they become on the cloud."""
