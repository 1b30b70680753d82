"""`subak demo`: a small retail company on several outlets, on this machine."""
