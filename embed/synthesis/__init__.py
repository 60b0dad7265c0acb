"""Training pairs written by a language model: it is asked about real contents, rated, and what is left is balanced."""
