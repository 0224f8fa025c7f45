"""The endpoints that clients of OpenAI's interface call."""
