"""What is true: tables, migrations and repositories over SQLite or PostgreSQL."""
