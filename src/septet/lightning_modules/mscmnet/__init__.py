"""MSCMNet."""
