"""A chat whose answers are paid for once. Run it with `python examples/chatbot`."""
