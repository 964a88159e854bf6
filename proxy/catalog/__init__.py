"""`object_info` and the model lists, cached."""
