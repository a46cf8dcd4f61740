"""Faults on purpose: what the product does with bad files, full disks, kills and wrong code.

The product never imports this package, and is installed without it.
"""
