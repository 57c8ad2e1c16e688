"""Models: wiring of networks to inference and loss, one file each."""
