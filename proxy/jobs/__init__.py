"""The life of a job: submission, engine, tracker, records, and who hears of it."""
