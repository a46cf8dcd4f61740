"""The extractor and the LightningModules that train on it."""
