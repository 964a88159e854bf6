"""`object_info` and the model lists, cached."""

from proxy.catalog.service import Catalog

__all__ = ["Catalog"]
