"""Evaluation of predictions: metrics with intervals, thresholds, paired tests, promotion gates, figures."""
