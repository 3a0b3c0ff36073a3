"""One folder per kind of data, each with its LightningDataModule."""
