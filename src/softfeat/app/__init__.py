"""The page `softfeat app`: a photo becomes layers and cut-outs in a web browser."""
