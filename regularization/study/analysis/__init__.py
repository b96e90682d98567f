"""Analyses of a study's results: numbers in, numbers out, nothing read or written.

May import what ``study`` may import, and its statistics.
"""
