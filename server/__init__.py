"""The HTTP server: OpenAI's interface over one engine per served model. Needs the extra `serve`."""
