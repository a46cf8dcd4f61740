"""Data sets: files and label maps, procedural scenes, superpixel maps, the LightningDataModule."""
