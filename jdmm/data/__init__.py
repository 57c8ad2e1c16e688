"""Data sources: each turns what is stored somewhere into a `jdmm.series.Series`."""
