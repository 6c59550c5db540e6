from .card import add_evaluation as add_evaluation
from .card import write_card as write_card
from .compare import write_comparison as write_comparison
from .page import refresh_report as refresh_report
from .page import write_report as write_report
