"""The report of a sweep, made from its plan and its records alone: no Ray, no MLflow, no torch."""

from orchestrator.report.words import verdict_table
from orchestrator.report.write import ReportFiles, write_report

__all__ = ["ReportFiles", "verdict_table", "write_report"]
