"""Helpers for all other folders, from which nothing is imported here: errors, checks, files, arrays, processes."""
