"""What a browse job runs inside the guest: a browser that waits, and who drives it."""
