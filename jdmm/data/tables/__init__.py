"""Tables of users: read, put on a regular grid of time, and written back with what was missing."""
