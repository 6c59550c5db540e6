"""The page that a run or a pipeline leaves behind: `write_report(folder)` writes one self-contained `report.html`."""

from accord.report.page import write_report

__all__ = ["write_report"]
