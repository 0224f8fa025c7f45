"""From rows of logits to token ids: parameters, penalties, grammars, log-probabilities."""
