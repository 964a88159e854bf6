"""`object_info` and the model lists, cached."""

from proxy.catalog.service import Catalogue

__all__ = ["Catalogue"]
