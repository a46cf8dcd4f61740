"""softfeat: semantic soft features, trained on superpixels, for the soft segmentation of photos."""
