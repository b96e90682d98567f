"""What a run writes and shows while it trains: history, curves, progress bar."""
