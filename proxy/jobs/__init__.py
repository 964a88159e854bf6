"""The api's half of jobs: submission, what lives, the history, and who hears of it."""
