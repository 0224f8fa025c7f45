"""The text side of GGUF files: vocabulary, tokenizer, special tokens, templates."""
