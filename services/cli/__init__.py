"""The command `subak`."""
