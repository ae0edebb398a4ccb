"""Kubernetes quantities: ``500m``, ``2Gi``."""

import re
from typing import Any

UNITS = {
    "m": 1e-3,
    "": 1.0,
    **{unit: 1000.0**n for n, unit in enumerate(("k", "M", "G", "T", "P"), 1)},
    **{unit: 1024.0**n for n, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi"), 1)},
}
QUANTITY = re.compile(r"(\d+(?:\.\d+)?)([a-zA-Z]*)")


def amount(quantity: Any) -> float | None:
    """How much it is, in units or bytes; None where it is no quantity."""
    match = QUANTITY.fullmatch(str(quantity))
    return float(match[1]) * UNITS[match[2]] if match and match[2] in UNITS else None


def fault(resource: str, quantity: Any) -> str | None:
    """What is wrong with the quantity of a resource, or None.

    Bytes need a unit: ``sizeLimit: 2`` is two bytes, which Kubernetes accepts. A GPU is whole.
    """
    value = amount(quantity)
    if value is None or value <= 0:
        return f"{quantity} is no amount above zero; expected one such as {_example(resource)}"
    is_plain = str(quantity).replace(".", "").isdigit()
    if resource in ("memory", "storage", "ephemeral-storage", "sizeLimit"):
        if is_plain or str(quantity).endswith("m"):
            return f"{quantity} is a number of bytes; expected a unit, such as {_example(resource)}"
    elif "/" in resource and not (is_plain and value == int(value)):
        return f"{quantity} is no whole number; pods cannot share a device"
    return None


def _example(resource: str) -> str:
    return "500m or 2" if resource == "cpu" else "1" if "/" in resource else "2Gi"
