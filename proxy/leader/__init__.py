"""Which of several processes answers, and how requests reach it."""
