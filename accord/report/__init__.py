"""Pages for people: `write_report(folder)` on a run or a pipeline, `write_comparison(folders, out)` on several."""

from typing import TYPE_CHECKING

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"compare": ["write_comparison"], "page": ["write_report"]}
)

if TYPE_CHECKING:
    from accord.report.compare import write_comparison as write_comparison
    from accord.report.page import write_report as write_report
