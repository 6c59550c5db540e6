from .compare import write_comparison as write_comparison
from .page import write_report as write_report
