"""The portable implementation: chunks of tokens, and one token."""
