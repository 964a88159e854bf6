"""Runs jobs on the cloud: sends them, follows them and records their ends."""
