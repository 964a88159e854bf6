"""Jobs as clients know them: submission, live jobs, the history, and sockets with messages."""
