"""Data: sources of every kind as one `Dataset`, the report of what is in them, their way to model space and back."""

from __future__ import annotations

from scorefield.data import toys
from scorefield.data.dataset import Dataset, Skipped
from scorefield.data.moments import Moments
from scorefield.data.report import DataReport, report
from scorefield.data.representation import Representation
from scorefield.data.sources import NAMES, open_data

__all__ = ["NAMES", "DataReport", "Dataset", "Moments", "Representation", "Skipped", "open_data", "report", "toys"]
