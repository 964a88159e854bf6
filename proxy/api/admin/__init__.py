"""What admins see and do, below `/proxy`, and members with what is their own."""
