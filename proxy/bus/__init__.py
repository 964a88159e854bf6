"""What is new: messages between the api and the engine."""
