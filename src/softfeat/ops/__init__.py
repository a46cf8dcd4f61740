"""Batched torch functions: tensors in, tensors out.

Legend, one everywhere: B images, H W pixels, S superpixels, D feature channels, K classes, P pairs.
"""
