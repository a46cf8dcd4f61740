"""Picture files in and out, superpixels, drawing."""
