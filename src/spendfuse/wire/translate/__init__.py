"""Calls of one API carried out with a provider that speaks another."""
