"""The Weizmann human actions: the data set, its clips, and the original archives."""
