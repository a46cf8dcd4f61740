"""Networks: feature extractors, heads, and the files of trained networks."""
