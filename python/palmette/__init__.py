"""Palmette's operators for PyTorch; see :mod:`palmette.jagged`."""

from . import jagged

__all__ = ["jagged"]
