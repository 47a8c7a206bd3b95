"""An experiment platform for mammography patch classification on MLflow and Optuna."""

__version__ = "0.2.0"
