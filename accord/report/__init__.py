"""Pages for people: `write_report(folder)` on a run or a pipeline, `write_comparison(folders, out)` on several."""

from accord.report.compare import write_comparison
from accord.report.page import write_report

__all__ = ["write_comparison", "write_report"]
