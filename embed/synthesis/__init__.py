"""Training pairs written by a language model from real contents, rated by it, deduplicated and balanced."""
