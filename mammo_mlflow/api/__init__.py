"""The package from Python: commands as functions, their results as objects, stores as tables."""
