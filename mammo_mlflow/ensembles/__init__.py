"""Ensembles of registered models, fitted and scored on the members' out-of-fold predictions."""
