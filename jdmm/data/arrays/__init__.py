"""Series of several modalities in a user's files: the data set, and what describes it."""
