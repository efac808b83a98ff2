"""Likelihood: the variational bound term by term, and the probability flow's density."""

from __future__ import annotations

from scorefield.likelihood.flow import Flow, FlowDensity
from scorefield.likelihood.measure import Measured, measure
from scorefield.likelihood.methods import FlowLikelihood, Method, VariationalBound
from scorefield.likelihood.reference import Reference
from scorefield.likelihood.subject import Subject

__all__ = [
    "Flow",
    "FlowDensity",
    "FlowLikelihood",
    "Measured",
    "Method",
    "Reference",
    "Subject",
    "VariationalBound",
    "measure",
]
