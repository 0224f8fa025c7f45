"""Text around the tokens: tokenizer, detokenizer, stop strings, chat templates, tool calls."""
