"""`object_info` and the model lists, cached."""

from proxy.catalogue.service import Catalogue

__all__ = ["Catalogue"]
