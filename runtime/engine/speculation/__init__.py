"""Draft tokens: who proposes them, who has room for them, and which of them are right."""
