"""What lies under a root: shown, checked, mended, merged."""
