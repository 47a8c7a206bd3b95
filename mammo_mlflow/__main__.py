"""`python -m mammo_mlflow`."""

from __future__ import annotations

import sys

from mammo_mlflow.cli import main

if __name__ == "__main__":
    sys.exit(main())
