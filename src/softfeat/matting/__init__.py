"""Soft segmentation of photos: affinities, eigenvectors, sparsification, layers."""
