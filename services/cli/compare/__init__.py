"""`subak compare`: whether several databases hold the same rows."""
