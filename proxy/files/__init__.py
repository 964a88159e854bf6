"""Names, contents, the cache on disk and image conversions."""
