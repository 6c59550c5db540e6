"""Files and hubs to records, and records to trees."""

from accord.data.load import load_data, load_prompts
from accord.data.loader import Order

__all__ = ["Order", "load_data", "load_prompts"]
