"""Jobs of a Hydra multirun, their report and a search."""
