"""The api's half of jobs: submission, live jobs, the history, and the sockets that get messages."""
