"""Spendfuse: the cost firewall for LLM APIs."""

__version__ = "0.1.0"
