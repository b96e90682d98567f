"""Callbacks: what ``fit`` measures, prints and writes while it trains.

``default_callbacks`` creates them. This package may import from models, optim, runs, data and internals.
"""
