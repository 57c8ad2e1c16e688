"""Sources of series and what is missing from them."""
