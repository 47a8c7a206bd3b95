"""Ensembles of members' out-of-fold predictions: weights, stackers, and what they are honestly worth."""
