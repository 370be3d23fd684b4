"""Training: data sets, patches and augmentation, losses, the loop, and what a run leaves behind.

A run ends with a checkpoint in the native form, which every shell can use at once.
"""
