"""Measurements: both sides in one process, in turn, quoted as ratios with their spread."""
