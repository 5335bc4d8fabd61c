"""The report of a sweep, made from its plan and its records alone: no Ray, no MLflow, no torch."""

from orchestrator.files import make_folder
from orchestrator.report.data.labels import verdict_table
from orchestrator.report.write import ReportFiles, write_report

__all__ = ["ReportFiles", "make_folder", "verdict_table", "write_report"]
