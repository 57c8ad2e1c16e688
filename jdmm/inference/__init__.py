"""Pure recursions over Gaussian states: filters, smoothers, posterior paths."""
