"""What nodes and models there are: object_info and the model lists, cached."""
