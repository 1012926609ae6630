"""Where data are found, and the embedded sample text."""
