"""Nodes that clients bring along: their pictures, their results and what else they keep here."""
