"""Evaluation: metrics with intervals, decision thresholds, patients as units, figures. Imports no other room."""
