"""Callbacks: what ``fit`` measures, prints and writes while it trains.

``default_callbacks`` puts them together. They may import from models, optim, runs, data and internals.
"""
