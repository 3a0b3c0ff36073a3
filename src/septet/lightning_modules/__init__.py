"""One folder per method, each with its LightningModule."""
