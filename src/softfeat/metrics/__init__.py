"""Scores of features, segmentations and mattes."""
