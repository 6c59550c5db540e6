"""Files and hubs to records, and records to trees."""

from accord.data.encoding import Order
from accord.data.load import load_data, load_prompts

__all__ = ["Order", "load_data", "load_prompts"]
