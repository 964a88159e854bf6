"""Where records survive a restart."""
